//! The `.npy` format: headers that are checked before anything is believed, numbers of any type as `f64`.

use std::io::{self, Read};

use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, WriterBuilder as _};

use crate::diag::{Code, Diagnostic, Result};

/// Headers are a line of text; numpy itself refuses far shorter ones than this.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// The text parser is recursive, so nesting is limited; numpy writes 3 levels at most.
const MAX_NESTING: usize = 32;

/// What the header of an array says, known to agree with the size of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Element type.
    pub elem: Elem,
    /// Where the numbers begin, counted from the beginning of the header.
    pub data_offset: u64,
}

/// An element type that can be read as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elem {
    kind: Kind,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Elem {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self.kind {
            Kind::I8 | Kind::U8 => 1,
            Kind::F16 | Kind::I16 | Kind::U16 => 2,
            Kind::F32 | Kind::I32 | Kind::U32 => 4,
            Kind::F64 | Kind::I64 | Kind::U64 => 8,
        }
    }
}

/// Reads the header of an array that takes `total_bytes` altogether, and checks that its data fits exactly.
pub fn read_header(reader: &mut impl Read, total_bytes: u64) -> Result<Header> {
    let bytes = read_header_bytes(reader).map_err(|error| not_npy(&error))?;
    let header = NpyHeader::from_reader(bytes.as_slice()).map_err(|error| not_npy(&error))?;
    let elem = elem(&header.dtype())?;
    let shape = usize_shape(header.shape()).ok_or_else(|| not_npy(&invalid("the shape is too large")))?;
    if header.order() == Order::Fortran && shape.iter().filter(|&&dim| dim > 1).count() > 1 {
        return Err(fortran_order().into());
    }
    let data_offset = bytes.len() as u64;
    check_size(&shape, elem, total_bytes.saturating_sub(data_offset))?;
    Ok(Header { shape, elem, data_offset })
}

/// The numbers in `bytes`. A rest that is shorter than an element is left out.
pub fn decode<T>(bytes: &[u8], elem: Elem, convert: impl Fn(f64) -> T) -> Vec<T> {
    macro_rules! numbers {
        ($number:ty, $to_f64:expr) => {
            match elem.big_endian {
                true => arrays(bytes).map(|b| convert($to_f64(<$number>::from_be_bytes(b)))).collect(),
                false => arrays(bytes).map(|b| convert($to_f64(<$number>::from_le_bytes(b)))).collect(),
            }
        };
    }
    match elem.kind {
        Kind::F16 => numbers!(u16, half_to_f64),
        Kind::F32 => numbers!(f32, f64::from),
        Kind::F64 => numbers!(f64, f64::from),
        Kind::I8 => numbers!(i8, f64::from),
        Kind::I16 => numbers!(i16, f64::from),
        Kind::I32 => numbers!(i32, f64::from),
        Kind::I64 => numbers!(i64, |x| x as f64),
        Kind::U8 => numbers!(u8, f64::from),
        Kind::U16 => numbers!(u16, f64::from),
        Kind::U32 => numbers!(u32, f64::from),
        Kind::U64 => numbers!(u64, |x| x as f64),
    }
}

/// A `.npy` file with these contents, for `f32`, `i8`, `i32` and other numbers.
pub fn npy_bytes<T: npyz::AutoSerialize + Copy>(dims: &[usize], values: &[T]) -> Vec<u8> {
    assert_eq!(dims.iter().product::<usize>(), values.len(), "the dimensions hold exactly the values");
    write_npy(dims, values).expect("memory accepts every byte, and the number of values was checked")
}

fn write_npy<T: npyz::AutoSerialize + Copy>(dims: &[usize], values: &[T]) -> io::Result<Vec<u8>> {
    let shape: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut bytes).begin_nd()?;
    writer.extend(values.iter().copied())?;
    writer.finish()?;
    Ok(bytes)
}

fn arrays<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// IEEE 754 binary16: 1 sign, 5 exponent and 10 mantissa bits.
fn half_to_f64(bits: u16) -> f64 {
    let mantissa = f64::from(bits & 0x3ff);
    let magnitude = match (bits >> 10) & 0x1f {
        0 => mantissa * 2.0_f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + mantissa) * 2.0_f64.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Magic, version, length and text. Nothing is allocated before its size is known to be small.
fn read_header_bytes(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = read_exactly(reader, 8)?;
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err(invalid("it does not begin with the mark of numpy"));
    }
    let length_bytes = if bytes.get(6) == Some(&1) { 2 } else { 4 };
    let length_field = read_exactly(reader, length_bytes)?;
    let length = length_field.iter().rev().fold(0, |length, &byte| length << 8 | usize::from(byte));
    if length > MAX_HEADER_BYTES {
        return Err(invalid("its header is far too long"));
    }
    let text = read_exactly(reader, length)?;
    check_text(&text)?;
    bytes.extend(length_field);
    bytes.extend(text);
    Ok(bytes)
}

fn read_exactly(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it ends inside its header"),
        _ => error,
    })?;
    Ok(bytes)
}

/// Keeps from the parser what it does not check itself: deep nesting, and sizes whose product overflows.
/// All numbers of the header are multiplied, which is simpler than finding the shape and never too strict:
/// the others are sizes of elements.
fn check_text(text: &[u8]) -> io::Result<()> {
    if nesting(text) > MAX_NESTING || text.contains(&b'\\') {
        return Err(invalid("its header is not that of a plain array"));
    }
    let text = String::from_utf8_lossy(text);
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut sizes = numbers.map(|digits| digits.parse::<u64>().ok().map(|size| size.max(1)));
    match sizes.try_fold(1_u64, |product, size| product.checked_mul(size?)) {
        Some(_) => Ok(()),
        None => Err(invalid("its header is not that of a plain array, or its sizes are too large")),
    }
}

fn nesting(text: &[u8]) -> usize {
    let mut depth = 0_usize;
    let depths = text.iter().map(|byte| {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth
    });
    depths.max().unwrap_or(0)
}

fn elem(dtype: &DType) -> Result<Elem> {
    let refused = || not_numbers(&dtype.descr());
    let DType::Plain(plain) = dtype else { return Err(refused().into()) };
    let kind = match (plain.type_char(), plain.size_field()) {
        (TypeChar::Float, 2) => Kind::F16,
        (TypeChar::Float, 4) => Kind::F32,
        (TypeChar::Float, 8) => Kind::F64,
        (TypeChar::Int, 1) => Kind::I8,
        (TypeChar::Int, 2) => Kind::I16,
        (TypeChar::Int, 4) => Kind::I32,
        (TypeChar::Int, 8) => Kind::I64,
        (TypeChar::Uint, 1) => Kind::U8,
        (TypeChar::Uint, 2) => Kind::U16,
        (TypeChar::Uint, 4) => Kind::U32,
        (TypeChar::Uint, 8) => Kind::U64,
        _ => return Err(refused().into()),
    };
    Ok(Elem { kind, big_endian: plain.endianness() == Endianness::Big })
}

fn usize_shape(shape: &[u64]) -> Option<Vec<usize>> {
    shape.iter().map(|&dim| usize::try_from(dim).ok()).collect()
}

fn check_size(shape: &[usize], elem: Elem, available: u64) -> Result<()> {
    let bytes = shape.iter().try_fold(elem.size() as u64, |bytes, &dim| bytes.checked_mul(dim as u64));
    match bytes {
        Some(bytes) if bytes == available => Ok(()),
        Some(bytes) if bytes < available => Err(trailing_bytes(available - bytes).into()),
        _ => Err(truncated(shape, available).into()),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn not_npy(error: &io::Error) -> Diagnostic {
    Diagnostic::error(Code::CalibrationType, format!("this is not a readable numpy array: {error}"))
        .help("write the array with `np.save` (.npy) or `np.savez` (.npz)")
}

fn not_numbers(descr: &str) -> Diagnostic {
    Diagnostic::error(Code::CalibrationType, format!("elements of the numpy type {descr} cannot be read as numbers"))
        .note("float16, float32, float64 and all integer types can be read")
        .help("convert the array: `x = x.astype(np.float32)`")
}

fn fortran_order() -> Diagnostic {
    Diagnostic::error(Code::CalibrationShape, "the array is stored in Fortran order (columns first)")
        .help("store it in C order: `np.save(path, np.ascontiguousarray(x))`")
}

fn truncated(shape: &[usize], available: u64) -> Diagnostic {
    let message = format!("the file is truncated: {available} bytes are too few for the shape {shape:?}");
    Diagnostic::error(Code::Io, message).help("write or copy the file again")
}

fn trailing_bytes(surplus: u64) -> Diagnostic {
    Diagnostic::error(Code::CalibrationShape, format!("{surplus} bytes follow the array"))
        .note("a file to which `np.save` wrote several times holds several arrays; only one is expected")
        .help("join the samples first: `np.save(path, np.stack(samples))`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f64>)> {
        let mut reader = bytes;
        let header = read_header(&mut reader, bytes.len() as u64)?;
        assert_eq!(header.data_offset as usize, bytes.len() - reader.len());
        Ok((header.shape, decode(reader, header.elem, |x| x)))
    }

    fn code(bytes: &[u8]) -> Code {
        read(bytes).unwrap_err().iter().next().unwrap().code
    }

    #[test]
    fn every_number_type_is_read_in_both_byte_orders() {
        let expected = Ok((vec![2], vec![-2.0, 3.0]));
        macro_rules! check {
            ($($number:ty, $descr:literal;)+) => {$(
                let big: Vec<u8> = [-2.0 as $number, 3.0 as $number].iter().flat_map(|x| x.to_be_bytes()).collect();
                let little: Vec<u8> = [-2.0 as $number, 3.0 as $number].iter().flat_map(|x| x.to_le_bytes()).collect();
                assert_eq!(read(&with_header(concat!("'>", $descr, "'"), "False", "(2,)", &big)), expected);
                assert_eq!(read(&with_header(concat!("'<", $descr, "'"), "False", "(2,)", &little)), expected);
            )+};
        }
        check!(f32, "f4"; f64, "f8"; i16, "i2"; i32, "i4"; i64, "i8";);
        assert_eq!(read(&with_header("'|i1'", "False", "(2,)", &[0xfe, 3])), expected);
        assert_eq!(read(&with_header("'|u1'", "False", "(2,)", &[0xfe, 3])), Ok((vec![2], vec![254.0, 3.0])));
        assert_eq!(read(&with_header("'>u2'", "False", "(1,)", &[0xff, 0xfe])), Ok((vec![1], vec![65534.0])));
        assert_eq!(read(&with_header("'<f2'", "False", "(2,)", &[0x00, 0xc0, 0x00, 0x42])), expected);
    }

    #[test]
    fn half_floats_are_exact() {
        assert_eq!(half_to_f64(0x7bff), 65504.0);
        assert_eq!(half_to_f64(0x0001), 2.0_f64.powi(-24));
        assert_eq!(half_to_f64(0xfc00), f64::NEG_INFINITY);
        assert!(half_to_f64(0x7e00).is_nan());
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&npy_bytes(&[2, 1], &[1.5_f32, -2.0])), Ok((vec![2, 1], vec![1.5, -2.0])));
        assert_eq!(read(&npy_bytes(&[3], &[1_i8, -2, 3])), Ok((vec![3], vec![1.0, -2.0, 3.0])));
        assert_eq!(read(&npy_bytes(&[], &[-70_000_i32])), Ok((vec![], vec![-70_000.0])));
    }

    #[test]
    fn other_types_are_refused() {
        for descr in ["'|b1'", "'<c8'", "'<U3'", "'|S3'", "'|O'", "'<M8[s]'", "'<f16'", "[('a', '<f4')]"] {
            assert_eq!(code(&with_header(descr, "False", "(1,)", &[0; 16])), Code::CalibrationType, "{descr}");
        }
    }

    #[test]
    fn fortran_order_is_refused_where_it_matters() {
        assert_eq!(code(&with_header("'|u1'", "True", "(2, 2)", &[0; 4])), Code::CalibrationShape);
        assert_eq!(read(&with_header("'|u1'", "True", "(1, 2)", &[1, 2])), Ok((vec![1, 2], vec![1.0, 2.0])));
    }

    #[test]
    fn sizes_must_agree_with_the_file() {
        assert_eq!(code(&with_header("'|u1'", "False", "(5,)", &[0; 4])), Code::Io);
        assert_eq!(code(&with_header("'|u1'", "False", "(3,)", &[0; 4])), Code::CalibrationShape);
        let huge = "(4294967296, 4294967296, 4294967296)";
        assert_eq!(code(&with_header("'|u1'", "False", huge, &[0; 4])), Code::CalibrationType);
        let hidden = "(0, 9223372036854775808, 9223372036854775808)";
        assert_eq!(code(&with_header("'|u1'", "False", hidden, &[])), Code::CalibrationType);
        let spelled = with_header("'|u1', 'sh\\x61pe': (9223372036854775807, 3)", "False", "(1,)", &[0]);
        assert_eq!(code(&spelled), Code::CalibrationType);
        assert_eq!(code(&with_header("'<f8'", "False", "(1099511627776,)", &[0; 4])), Code::Io);
    }

    #[test]
    fn damaged_headers_are_diagnosed() {
        let whole = npy_bytes(&[3], &[1.0_f32, 2.0, 3.0]);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        for position in 0..whole.len() - 12 {
            for byte in [0, b'(', b'9', 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = byte;
                let _ = read(&damaged);
            }
        }
        let nested = format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000));
        assert_eq!(code(&with_header("'|u1'", "False", &nested, &[])), Code::CalibrationType);
        assert_eq!(code(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), Code::CalibrationType);
        assert_eq!(code(b"PK\x03\x04"), Code::CalibrationType);
    }
}
