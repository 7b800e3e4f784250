//! As much of numpy's file format as this example needs.

use std::path::Path;

/// The numbers of an array of `float32` or `uint8`, in C order.
pub fn read(path: &Path) -> Result<Vec<f32>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&bytes).ok_or_else(|| format!("{}: not a .npy file with float32 or uint8 in C order", path.display()))
}

fn parse(bytes: &[u8]) -> Option<Vec<f32>> {
    let rest = bytes.strip_prefix(b"\x93NUMPY\x01\x00")?;
    let (length, rest) = rest.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let header = std::str::from_utf8(header).ok()?;
    if header.contains("'fortran_order': True") {
        return None;
    }
    if header.contains("'<f4'") {
        Some(data.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect())
    } else if header.contains("'|u1'") {
        Some(data.iter().copied().map(f32::from).collect())
    } else {
        None
    }
}
