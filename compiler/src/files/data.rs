//! Sample data from `.npy` and `.npz` files, one sample at a time.
//!
//! Opening checks every header against the model's inputs and against the size of the file. Reading holds
//! one sample in memory (a few, for archives), however many there are. Deliberately absent: pickled
//! objects, images and audio; converting those is a line of numpy.

mod npy;
mod preprocess;
mod shape;

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use npyz::npz::NpzArchive;

pub use npy::npy_bytes;
pub use preprocess::Preprocess;

use crate::diag::{Code, Diagnostic, Diagnostics, Result, list_names};
use npy::{Elem, Header, decode, read_header};

/// After so many files with problems the rest is not looked at.
const MAX_BAD_FILES: usize = 8;

/// Name and shape of an input of the model; the shape includes the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// The name of the ONNX tensor.
    pub name: String,
    /// Dimensions, all known.
    pub dims: Vec<usize>,
}

/// One row-major array for each input of the model.
pub type Sample = Vec<Vec<f32>>;

/// Samples on disk, known to fit the model.
#[derive(Debug)]
pub struct SampleSet {
    inputs: Vec<InputSpec>,
    preprocess: Preprocess,
    files: Vec<SampleFile>,
}

#[derive(Debug)]
struct SampleFile {
    path: PathBuf,
    contents: Contents,
    samples: usize,
}

#[derive(Debug)]
enum Contents {
    Array(Header),
    /// One header for each input, in the order of the inputs.
    Archive(Vec<Header>),
}

impl SampleSet {
    /// Opens a `.npy` file, a `.npz` file with arrays named like the inputs, or a folder of such files.
    /// All files are checked, but no sample is read yet.
    pub fn open(path: &Path, inputs: &[InputSpec], preprocess: Preprocess) -> Result<SampleSet> {
        preprocess.check()?;
        let mut files = Vec::new();
        let mut problems = Diagnostics::new();
        for path in data_files(path)? {
            let opened = open_file(&path, inputs, &preprocess).map_err(|found| found.in_file(path.display()));
            files.extend(problems.collect(opened));
            if problems.len() >= MAX_BAD_FILES {
                break;
            }
        }
        problems.into_result(SampleSet { inputs: inputs.to_vec(), preprocess, files })
    }

    /// Number of samples; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a set without samples cannot be opened")]
    pub fn len(&self) -> usize {
        self.files.iter().map(|file| file.samples).sum()
    }

    /// Names of the files without their folders, in the order of reading.
    pub fn file_names(&self) -> Vec<String> {
        let names = self.files.iter().filter_map(|file| file.path.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// All samples, file by file. Ends after the first problem.
    pub fn samples(&self) -> Samples<'_> {
        Samples { set: self, next_file: 0, open: None, failed: false }
    }

    fn convert(&self, input: &InputSpec, bytes: &[u8], elem: Elem, sample_idx: usize) -> Result<Vec<f32>> {
        let stored = decode(bytes, elem, |number| number as f32);
        refuse_not_finite(&stored, sample_idx, "holds")?;
        let values = self.preprocess.apply(stored, &input.dims);
        refuse_not_finite(&values, sample_idx, "is converted to")?;
        Ok(values)
    }
}

/// Iterator over the samples of a set.
#[derive(Debug)]
pub struct Samples<'a> {
    set: &'a SampleSet,
    next_file: usize,
    open: Option<OpenFile<'a>>,
    failed: bool,
}

#[derive(Debug)]
struct OpenFile<'a> {
    file: &'a SampleFile,
    arrays: Vec<ArrayReader>,
    next_sample: usize,
}

impl Iterator for Samples<'_> {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Result<Sample>> {
        if self.failed {
            return None;
        }
        let sample = self.next_sample().transpose();
        self.failed = matches!(sample, Some(Err(_)));
        sample
    }
}

impl Samples<'_> {
    fn next_sample(&mut self) -> Result<Option<Sample>> {
        loop {
            if let Some(open) = &mut self.open
                && open.next_sample < open.file.samples
            {
                let file = open.file.path.display();
                return open.read_sample(self.set).map(Some).map_err(|found| found.in_file(file));
            }
            let Some(file) = self.set.files.get(self.next_file) else { return Ok(None) };
            let arrays = file.readers(&self.set.inputs).map_err(|error| unreadable(&file.path, &error))?;
            self.next_file += 1;
            self.open = Some(OpenFile { file, arrays, next_sample: 0 });
        }
    }
}

impl OpenFile<'_> {
    fn read_sample(&mut self, set: &SampleSet) -> Result<Sample> {
        let sample_idx = self.next_sample;
        self.next_sample += 1;
        let arrays = set.inputs.iter().zip(&mut self.arrays);
        arrays
            .map(|(input, array)| {
                let bytes = array.next_bytes().map_err(|error| unreadable(&self.file.path, &error))?;
                let values = set.convert(input, &bytes, array.elem, sample_idx);
                values.map_err(|found| in_tensor(found, &input.name))
            })
            .collect()
    }
}

/// Hands out the bytes of one sample of one array after the other.
#[derive(Debug)]
struct ArrayReader {
    elem: Elem,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File {
        reader: BufReader<File>,
        sample_bytes: usize,
    },
    /// Arrays in archives may be compressed and are read in parallel, so each has its own thread.
    Thread(Receiver<io::Result<Vec<u8>>>),
}

impl ArrayReader {
    fn next_bytes(&mut self) -> io::Result<Vec<u8>> {
        match &mut self.source {
            Source::File { reader, sample_bytes } => read_block(reader, *sample_bytes),
            Source::Thread(blocks) => blocks.recv().unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl SampleFile {
    fn readers(&self, inputs: &[InputSpec]) -> io::Result<Vec<ArrayReader>> {
        match &self.contents {
            Contents::Array(header) => {
                let mut reader = BufReader::new(File::open(&self.path)?);
                reader.seek(SeekFrom::Start(header.data_offset))?;
                let source = Source::File { reader, sample_bytes: self.sample_bytes(header) };
                Ok(vec![ArrayReader { elem: header.elem, source }])
            }
            Contents::Archive(headers) => {
                let arrays = inputs.iter().zip(headers);
                Ok(arrays.map(|(input, header)| self.archive_reader(&input.name, header)).collect())
            }
        }
    }

    fn archive_reader(&self, name: &str, header: &Header) -> ArrayReader {
        // Two blocks are enough to keep both threads busy.
        let (sender, receiver) = sync_channel(2);
        let (path, name, data_offset) = (self.path.clone(), name.to_owned(), header.data_offset);
        let (samples, sample_bytes) = (self.samples, self.sample_bytes(header));
        std::thread::spawn(move || {
            if let Err(error) = send_blocks(&path, &name, data_offset, samples, sample_bytes, &sender) {
                // Nobody waits for the error if the reader was dropped.
                let _ = sender.send(Err(error));
            }
        });
        ArrayReader { elem: header.elem, source: Source::Thread(receiver) }
    }

    /// The header's size was checked against the file, so the product is small and the division exact.
    fn sample_bytes(&self, header: &Header) -> usize {
        header.shape.iter().product::<usize>() / self.samples * header.elem.size()
    }
}

/// Reads a 1-dimensional array of class labels: integers of any type, or floats that are integers.
pub fn read_labels(path: &Path) -> Result<Vec<i64>> {
    read_label_array(path).map_err(|found| found.in_file(path.display()))
}

/// Runs in a thread. Ends early without an error when the receiver is gone.
fn send_blocks(
    path: &Path,
    name: &str,
    data_offset: u64,
    samples: usize,
    sample_bytes: usize,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let mut archive = NpzArchive::open(path)?;
    let mut entry = archive_entry(&mut archive, name)?;
    io::copy(&mut entry.by_ref().take(data_offset), &mut io::sink())?;
    for sample_idx in 0..samples {
        let block = read_block(&mut entry, sample_bytes)?;
        if sample_idx + 1 == samples {
            // The checksum is compared when the end is read; it must be right before the last sample is used.
            io::copy(&mut entry, &mut io::sink())?;
        }
        if sender.send(Ok(block)).is_err() {
            break;
        }
    }
    Ok(())
}

fn read_block(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut block = vec![0; length];
    reader.read_exact(&mut block)?;
    Ok(block)
}

fn archive_entry<'a>(archive: &'a mut NpzArchive<BufReader<File>>, name: &str) -> io::Result<impl Read + use<'a>> {
    let name = npyz::npz::file_name_from_array_name(name);
    archive.zip_archive().by_name(&name).map_err(io::Error::other)
}

fn data_files(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = entries.map_err(|error| unreadable(path, &error))?;
    paths.sort();
    let (files, others): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| is_numpy_file(path));
    if files.is_empty() { Err(empty_folder(path, &others).into()) } else { Ok(files) }
}

fn is_numpy_file(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    path.is_file() && extension.is_some_and(|extension| extension == "npy" || extension == "npz")
}

fn open_file(path: &Path, inputs: &[InputSpec], preprocess: &Preprocess) -> Result<SampleFile> {
    let (contents, samples) = if is_archive(path).map_err(|error| unreadable(path, &error))? {
        open_archive(path, inputs, preprocess)?
    } else {
        open_array(path, inputs, preprocess)?
    };
    Ok(SampleFile { path: path.to_owned(), contents, samples })
}

/// The beginning of the file decides, not its name.
fn is_archive(path: &Path) -> io::Result<bool> {
    let mut mark = Vec::new();
    File::open(path)?.take(2).read_to_end(&mut mark)?;
    Ok(mark == b"PK")
}

fn open_array(path: &Path, inputs: &[InputSpec], preprocess: &Preprocess) -> Result<(Contents, usize)> {
    let [input] = inputs else { return Err(needs_archive(inputs).into()) };
    let header = header_of_file(path)?;
    let samples = count_samples(&header, input, preprocess)?;
    Ok((Contents::Array(header), samples))
}

fn header_of_file(path: &Path) -> Result<Header> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let length = file.metadata().map_err(|error| unreadable(path, &error))?.len();
    read_header(&mut BufReader::new(file), length)
}

fn open_archive(path: &Path, inputs: &[InputSpec], preprocess: &Preprocess) -> Result<(Contents, usize)> {
    let mut archive = NpzArchive::open(path).map_err(|error| damaged_archive(&error))?;
    check_names(&archive, inputs)?;
    let mut problems = Diagnostics::new();
    let mut headers = Vec::new();
    let mut counts = Vec::new();
    for input in inputs {
        let header = header_in_archive(&mut archive, &input.name).map_err(|found| in_tensor(found, &input.name));
        if let Some(header) = problems.collect(header) {
            counts.extend(problems.collect(count_samples(&header, input, preprocess)));
            headers.push(header);
        }
    }
    problems.into_result(())?;
    let samples = counts.first().copied().unwrap_or(0);
    if counts.iter().any(|&count| count != samples) {
        return Err(different_counts(inputs, &counts).into());
    }
    Ok((Contents::Archive(headers), samples))
}

fn header_in_archive(archive: &mut NpzArchive<BufReader<File>>, name: &str) -> Result<Header> {
    let file_name = npyz::npz::file_name_from_array_name(name);
    let entry = archive.zip_archive().by_name(&file_name).map_err(|error| damaged_archive(&error.into()))?;
    let size = entry.size();
    read_header(&mut BufReader::new(entry), size)
}

fn check_names(archive: &NpzArchive<BufReader<File>>, inputs: &[InputSpec]) -> Result<()> {
    let mut present: Vec<&str> = archive.array_names().collect();
    present.sort_unstable();
    let wanted: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !present.contains(name)).collect();
    let extra: Vec<&str> = present.iter().copied().filter(|name| !wanted.contains(name)).collect();
    match (missing.is_empty(), extra.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => Err(wrong_names("holds arrays that are no inputs of the model", &extra, &present, &wanted)),
        (false, _) => Err(wrong_names("lacks arrays for inputs of the model", &missing, &present, &wanted)),
    }
}

fn count_samples(header: &Header, input: &InputSpec, preprocess: &Preprocess) -> Result<usize> {
    let seen = preprocess.shape_seen_by_model(&header.shape, input.dims.len());
    shape::fit(&header.shape, &seen, &input.dims)
        .and_then(|count| {
            preprocess.check_channels(&header.shape, shape::sample_len(&input.dims))?;
            Ok(count)
        })
        .map_err(|found| in_tensor(found, &input.name))
}

fn refuse_not_finite(values: &[f32], sample_idx: usize, verb: &str) -> Result<()> {
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((position, value)) => Err(not_finite(sample_idx, verb, *value, position).into()),
    }
}

fn read_label_array(path: &Path) -> Result<Vec<i64>> {
    let header = header_of_file(path).map_err(|found| found.into_iter().map(as_labels).collect::<Diagnostics>())?;
    if header.shape.len() != 1 {
        return Err(label_shape(&header.shape).into());
    }
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
    let data = bytes.get(header.data_offset as usize..).unwrap_or_default();
    let numbers = decode(data, header.elem, |number| number);
    numbers.into_iter().enumerate().map(|(position, number)| label(number, position)).collect()
}

/// Labels beyond 2^53 are no class numbers, and `f64` would not hold them exactly.
fn label(number: f64, position: usize) -> Result<i64> {
    if number.fract() == 0.0 && number.abs() <= (1_u64 << 53) as f64 {
        return Ok(number as i64);
    }
    let message = format!("{number:?} at position {position} is not an integer");
    let help = "store the numbers of the classes: `np.save(path, labels.astype(np.int64))`";
    Err(Diagnostic::error(Code::Labels, message).help(help).into())
}

fn as_labels(mut problem: Diagnostic) -> Diagnostic {
    if problem.code != Code::Io {
        problem.code = Code::Labels;
    }
    problem
}

fn in_tensor(found: Diagnostics, name: &str) -> Diagnostics {
    found.into_iter().map(|problem| problem.tensor(name)).collect()
}

fn label_shape(shape: &[usize]) -> Diagnostic {
    let help = match shape.iter().filter(|&&dim| dim != 1).count() {
        0 | 1 => "in numpy: `labels = labels.reshape(-1)`",
        _ => "if these are scores or one-hot rows, in numpy: `labels = labels.argmax(axis=-1)`",
    };
    Diagnostic::error(Code::Labels, format!("labels have one axis, this array has the shape {shape:?}")).help(help)
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let problem = Diagnostic::error(Code::Io, format!("cannot read the data: {error}")).file(path.display());
    match error.kind() {
        io::ErrorKind::NotFound => problem.help("check the path; expected is a .npy file, a .npz file or a folder"),
        io::ErrorKind::UnexpectedEof => problem.help("the file is shorter than it was, or damaged: write it again"),
        _ => problem,
    }
}

fn damaged_archive(error: &io::Error) -> Diagnostic {
    Diagnostic::error(Code::Io, format!("the archive cannot be read: {error}"))
        .help("write it again with `np.savez` or `np.savez_compressed`")
}

fn empty_folder(path: &Path, others: &[PathBuf]) -> Diagnostic {
    let problem = Diagnostic::error(Code::CalibrationEmpty, "the folder holds no .npy or .npz file")
        .file(path.display())
        .help("convert the samples with `np.save`, preprocessed as in training");
    let names: Vec<_> =
        others.iter().filter_map(|other| other.file_name()).map(|name| name.to_string_lossy()).collect();
    if names.is_empty() { problem } else { problem.note(format!("it holds {}", list_names(&names, 3))) }
}

fn needs_archive(inputs: &[InputSpec]) -> Diagnostic {
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let message = format!("the model has {} inputs, and a .npy file holds one array", names.len());
    Diagnostic::error(Code::CalibrationShape, message)
        .note(format!("inputs: {}", list_names(&names, 8)))
        .help(savez_line(&names))
}

fn wrong_names(what: &str, names: &[&str], present: &[&str], wanted: &[&str]) -> Diagnostics {
    Diagnostic::error(Code::CalibrationShape, format!("the archive {what}: {}", list_names(names, 8)))
        .note(format!("arrays in the archive: {}", list_names(present, 8)))
        .note(format!("inputs of the model: {}", list_names(wanted, 8)))
        .help(savez_line(wanted))
        .into()
}

fn savez_line(names: &[&str]) -> String {
    let arguments: Vec<String> = names.iter().enumerate().map(|(i, name)| format!("{name:?}: x{i}")).collect();
    format!("save the arrays under the names of the inputs: `np.savez(path, **{{{}}})`", arguments.join(", "))
}

fn different_counts(inputs: &[InputSpec], counts: &[usize]) -> Diagnostic {
    let counts = inputs.iter().zip(counts).map(|(input, count)| format!("`{}` has {count}", input.name));
    Diagnostic::error(Code::CalibrationShape, "the arrays hold different numbers of samples")
        .note(counts.collect::<Vec<_>>().join(", "))
        .help("store one entry of every input for each sample")
}

fn not_finite(sample_idx: usize, verb: &str, value: f32, position: usize) -> Diagnostic {
    let message = format!("sample {sample_idx} {verb} {value} at flat position {position}");
    Diagnostic::error(Code::NonFinite, message)
        .note("samples and positions are counted from 0")
        .help("leave the sample out or repair it; `np.isfinite(x).all()` must be true")
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use super::*;

    fn input(name: &str, dims: &[usize]) -> InputSpec {
        InputSpec { name: name.to_owned(), dims: dims.to_vec() }
    }

    /// An archive as numpy writes it. `compress` is what `np.savez_compressed` does.
    fn npz(arrays: &[(&str, Vec<u8>)], compress: bool) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = npyz::npz::NpzWriter::new(&mut bytes);
        for (name, array) in arrays {
            let mut options = <npyz::zip::write::FileOptions>::default();
            if !compress {
                options = options.compression_method(npyz::zip::CompressionMethod::Stored);
            }
            writer.zip_writer().start_file(format!("{name}.npy"), options).unwrap();
            writer.zip_writer().write_all(array).unwrap();
        }
        drop(writer);
        bytes.into_inner()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    fn read(path: &Path, inputs: &[InputSpec]) -> Result<Vec<Sample>> {
        let set = SampleSet::open(path, inputs, Preprocess::default())?;
        let samples = set.samples().collect::<Result<Vec<Sample>>>()?;
        assert_eq!(samples.len(), set.len());
        Ok(samples)
    }

    fn first(problems: Diagnostics) -> Diagnostic {
        problems.into_iter().next().unwrap()
    }

    #[test]
    fn an_array_holds_one_or_several_samples() {
        let folder = Folder::new();
        let several = folder.file("a.npy", &npy_bytes(&[2, 3], &[1_i32, 2, 3, 4, 5, 6]));
        let one = folder.file("b.npy", &npy_bytes(&[3], &[7.0_f32, 8.0, 9.0]));
        let inputs = [input("x", &[1, 3])];
        assert_eq!(read(&several, &inputs), Ok(vec![vec![vec![1.0, 2.0, 3.0]], vec![vec![4.0, 5.0, 6.0]]]));
        assert_eq!(read(&one, &inputs), Ok(vec![vec![vec![7.0, 8.0, 9.0]]]));
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names() {
        let folder = Folder::new();
        folder.file("b.npy", &npy_bytes(&[2, 1], &[2.0_f32, 3.0]));
        folder.file("a.NPZ", &npz(&[("x", npy_bytes(&[1], &[1.0_f32]))], true));
        folder.file("notes.txt", b"ignored");
        let set = SampleSet::open(folder.0.path(), &[input("x", &[1, 1])], Preprocess::default()).unwrap();
        assert_eq!(set.file_names(), ["a.NPZ", "b.npy"]);
        let firsts: Vec<f32> = set.samples().map(|sample| sample.unwrap()[0][0]).collect();
        assert_eq!(firsts, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn archives_give_arrays_by_the_names_of_inputs() {
        let folder = Folder::new();
        let arrays = [("b/1", npy_bytes(&[2, 1], &[10_u8, 20])), ("a", npy_bytes(&[2, 2], &[1.0_f64, 2.0, 3.0, 4.0]))];
        let inputs = [input("a", &[1, 2]), input("b/1", &[1, 1])];
        for compress in [false, true] {
            let path = folder.file("x.npz", &npz(&arrays, compress));
            let expected = vec![vec![vec![1.0, 2.0], vec![10.0]], vec![vec![3.0, 4.0], vec![20.0]]];
            assert_eq!(read(&path, &inputs), Ok(expected));
        }
    }

    #[test]
    fn large_archives_stream_and_can_be_left_early() {
        let folder = Folder::new();
        let values: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
        let path = folder.file("x.npz", &npz(&[("x", npy_bytes(&[2000, 100], &values))], true));
        let set = SampleSet::open(&path, &[input("x", &[1, 100])], Preprocess::default()).unwrap();
        assert_eq!(set.samples().nth(1234).unwrap().unwrap()[0][5], 123_405.0);
        assert_eq!(set.samples().map(|sample| sample.unwrap()[0].len()).sum::<usize>(), 200_000);
    }

    #[test]
    fn wrong_names_and_counts_are_explained() {
        let folder = Folder::new();
        let array = || npy_bytes(&[2, 1], &[1.0_f32, 2.0]);
        let lacking = folder.file("lacking.npz", &npz(&[("arr_0", array())], false));
        let problem = first(read(&lacking, &[input("in/put", &[1, 1])]).unwrap_err());
        assert!(problem.message.contains("lacks") && problem.message.contains("`in/put`"), "{problem:?}");
        assert!(problem.help.unwrap().contains("np.savez(path, **{\"in/put\": x0})"));
        let extra = folder.file("extra.npz", &npz(&[("x", array()), ("y", array())], false));
        assert!(first(read(&extra, &[input("x", &[1, 1])]).unwrap_err()).message.contains("no inputs"));
        let counts = folder.file("counts.npz", &npz(&[("x", array()), ("y", npy_bytes(&[3, 1], &[0_u8; 3]))], false));
        let problem = first(read(&counts, &[input("x", &[1, 1]), input("y", &[1, 1])]).unwrap_err());
        assert_eq!(problem.notes, ["`x` has 2, `y` has 3"]);
        let single = folder.file("x.npy", &array());
        let problem = first(read(&single, &[input("x", &[1, 1]), input("y", &[1, 1])]).unwrap_err());
        assert!(problem.help.unwrap().contains("\"x\": x0, \"y\": x1"));
    }

    #[test]
    fn not_finite_values_are_located() {
        let folder = Folder::new();
        let path = folder.file("x.npy", &npy_bytes(&[2, 2], &[1.0_f32, 2.0, 3.0, f32::NAN]));
        let set = SampleSet::open(&path, &[input("x", &[1, 2])], Preprocess::default()).unwrap();
        let mut samples = set.samples();
        assert!(samples.next().unwrap().is_ok());
        let problem = first(samples.next().unwrap().unwrap_err());
        assert_eq!(problem.message, "sample 1 holds NaN at flat position 1");
        assert_eq!((problem.code, problem.location.tensor.as_deref()), (Code::NonFinite, Some("x")));
        assert!(problem.location.file.unwrap().ends_with("x.npy"));
        assert!(samples.next().is_none());
        let path = folder.file("y.npy", &npy_bytes(&[1, 1], &[1e300_f64]));
        assert_eq!(first(read(&path, &[input("x", &[1, 1])]).unwrap_err()).code, Code::NonFinite);
    }

    #[test]
    fn raw_images_are_converted() {
        let folder = Folder::new();
        let path = folder.file("x.npy", &npy_bytes(&[2, 1, 2, 3], &[0_u8, 50, 100, 10, 60, 110, 1, 2, 3, 4, 5, 6]));
        let preprocess =
            Preprocess { scale: 0.1, nhwc_to_nchw: true, mean: vec![0.0, 5.0, 10.0], ..Preprocess::default() };
        let set = SampleSet::open(&path, &[input("x", &[1, 3, 1, 2])], preprocess).unwrap();
        assert_eq!(set.samples().next().unwrap().unwrap()[0], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        let problem = first(read(&path, &[input("x", &[1, 3, 1, 2])]).unwrap_err());
        assert!(problem.help.unwrap().contains("transpose(0, 3, 1, 2)"));
    }

    #[test]
    fn damaged_files_are_diagnosed() {
        let folder = Folder::new();
        let inputs = [input("x", &[1, 2])];
        let array = npy_bytes(&[3, 2], &[1.0_f32; 6]);
        for compress in [false, true] {
            let archive = npz(&[("x", array.clone())], compress);
            for whole in [&array, &archive] {
                for length in 0..whole.len() {
                    let path = folder.file("x.npy", &whole[..length]);
                    assert!(read(&path, &inputs).is_err(), "{length} of {}", whole.len());
                }
            }
            for position in 0..archive.len() {
                let mut damaged = archive.clone();
                damaged[position] ^= 0x55;
                let _ = read(&folder.file("x.npz", &damaged), &inputs);
            }
        }
    }

    #[test]
    fn a_changed_number_in_an_archive_is_noticed() {
        let folder = Folder::new();
        let mut archive = npz(&[("x", npy_bytes(&[2, 2], &[1.5_f32, 2.5, 3.5, 4.5]))], false);
        let at = archive.windows(4).position(|bytes| bytes == 3.5_f32.to_le_bytes()).unwrap();
        archive[at] ^= 1;
        let path = folder.file("x.npz", &archive);
        assert_eq!(first(read(&path, &[input("x", &[1, 2])]).unwrap_err()).code, Code::Io);
    }

    #[test]
    fn nothing_to_read_is_explained() {
        let folder = Folder::new();
        let inputs = [input("x", &[1, 2])];
        assert_eq!(first(read(folder.0.path(), &inputs).unwrap_err()).code, Code::CalibrationEmpty);
        folder.file("cat.jpg", b"jpg");
        assert_eq!(first(read(folder.0.path(), &inputs).unwrap_err()).notes, ["it holds `cat.jpg`"]);
        let empty = folder.file("empty.npy", &npy_bytes::<f32>(&[0, 2], &[]));
        assert_eq!(first(read(&empty, &inputs).unwrap_err()).code, Code::CalibrationEmpty);
        assert_eq!(first(read(&folder.0.path().join("gone.npy"), &inputs).unwrap_err()).code, Code::Io);
    }

    #[test]
    fn problems_of_many_files_are_collected_up_to_a_limit() {
        let folder = Folder::new();
        for i in 0..30 {
            folder.file(&format!("{i:02}.npy"), b"no array");
        }
        assert_eq!(read(folder.0.path(), &[input("x", &[1, 2])]).unwrap_err().len(), MAX_BAD_FILES);
    }

    #[test]
    fn labels_are_integers_of_any_type() {
        let folder = Folder::new();
        let labels = |bytes: &[u8]| read_labels(&folder.file("labels.npy", bytes));
        assert_eq!(labels(&npy_bytes(&[3], &[1_u8, 2, 255])), Ok(vec![1, 2, 255]));
        assert_eq!(labels(&npy_bytes(&[2], &[-1_i64, 7])), Ok(vec![-1, 7]));
        assert_eq!(labels(&npy_bytes(&[2], &[3.0_f32, 0.0])), Ok(vec![3, 0]));
        for bad in [npy_bytes(&[1], &[0.5_f32]), npy_bytes(&[1], &[f64::NAN]), npy_bytes(&[1], &[u64::MAX])] {
            assert_eq!(first(labels(&bad).unwrap_err()).code, Code::Labels);
        }
        let one_hot = first(labels(&npy_bytes(&[2, 2], &[0_u8, 1, 1, 0])).unwrap_err());
        assert!(one_hot.help.unwrap().contains("argmax"));
    }
}
