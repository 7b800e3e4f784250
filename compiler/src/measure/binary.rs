//! Facts from objects and linked programs: symbols, sizes, and which function an address belongs to.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use addr2line::gimli::{self, EndianSlice, RunTimeEndian};
use object::{Architecture, Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

use super::toolchain::Failure;

/// A function in a file.
#[derive(Debug, Clone)]
pub struct FunctionSymbol {
    /// Its symbol.
    pub symbol: String,
    /// Its addresses.
    pub addresses: Range<u64>,
}

impl FunctionSymbol {
    /// Its name in the source, without the names around it.
    pub fn name(&self) -> String {
        last_segment(&addr2line::demangle_auto(self.symbol.as_str().into(), None)).to_owned()
    }
}

/// The contents of an object or program.
#[derive(Debug)]
pub struct Binary {
    bytes: Vec<u8>,
}

/// Bytes of an object by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sections {
    /// Machine code, with the constants that a compiler puts between it.
    pub code: u64,
    /// Constant data.
    pub constants: u64,
    /// Variables, initialised or not.
    pub variables: u64,
}

impl std::ops::AddAssign for Sections {
    fn add_assign(&mut self, other: Sections) {
        self.code += other.code;
        self.constants += other.constants;
        self.variables += other.variables;
    }
}

impl Binary {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Binary, Failure> {
        let binary = Binary { bytes: std::fs::read(path)? };
        binary.file()?;
        Ok(binary)
    }

    fn file(&self) -> Result<object::File<'_>, Failure> {
        Ok(object::File::parse(&*self.bytes).map_err(std::io::Error::other)?)
    }

    /// Its functions, by address.
    pub fn functions(&self) -> Result<Vec<FunctionSymbol>, Failure> {
        let file = self.file()?;
        // The lowest bit of an address of Thumb code tells its kind.
        let mask = if file.architecture() == Architecture::Arm { !1 } else { !0 };
        let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
        let symbol = |symbol: object::Symbol| {
            let start = symbol.address() & mask;
            let symbol_name = symbol.name().unwrap_or_default().to_owned();
            FunctionSymbol { symbol: symbol_name, addresses: start..start + symbol.size() }
        };
        let mut functions: Vec<FunctionSymbol> = symbols.map(symbol).collect();
        functions.sort_by_key(|function| (function.addresses.start, function.addresses.end));
        // Several names of one function.
        functions.dedup_by_key(|function| function.addresses.clone());
        Ok(functions)
    }

    /// Names that the file uses and does not define.
    pub fn undefined(&self) -> Result<BTreeSet<String>, Failure> {
        let file = self.file()?;
        let names = file.symbols().filter(|symbol| symbol.is_undefined());
        Ok(names.filter_map(|symbol| symbol.name().ok().map(str::to_owned)).collect())
    }

    /// Sizes of the sections that are part of a program.
    pub fn sections(&self) -> Result<Sections, Failure> {
        let mut sizes = Sections::default();
        for section in self.file()?.sections() {
            let is_unwinding =
                section.name().is_ok_and(|name| name.starts_with(".ARM.ex") || name.starts_with(".eh_frame"));
            match section.kind() {
                _ if is_unwinding => {}
                SectionKind::Text => sizes.code += section.size(),
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyDataWithRel | SectionKind::ReadOnlyString => {
                    sizes.constants += section.size();
                }
                SectionKind::Data | SectionKind::UninitializedData => sizes.variables += section.size(),
                _ => {}
            }
        }
        Ok(sizes)
    }

    /// For every address of a function the source functions that it comes from, the innermost first: a compiler puts
    /// functions into each other. Nothing where the debug information says nothing; then it is the function itself.
    pub fn sources(&self, function: &FunctionSymbol) -> Result<Vec<Vec<String>>, Failure> {
        let file = self.file()?;
        let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|section| section.data().ok()).unwrap_or_default();
            Ok(EndianSlice::new(data, endian))
        };
        let dwarf = gimli::Dwarf::load(section).map_err(std::io::Error::other)?;
        let context = addr2line::Context::from_dwarf(dwarf).map_err(std::io::Error::other)?;
        function
            .addresses
            .clone()
            .map(|address| Ok(frames(&context, address).map_err(std::io::Error::other)?))
            .collect()
    }
}

fn frames(
    context: &addr2line::Context<EndianSlice<'_, RunTimeEndian>>,
    address: u64,
) -> Result<Vec<String>, gimli::Error> {
    let mut frames = context.find_frames(address).skip_all_loads()?;
    let mut names = vec![];
    while let Some(frame) = frames.next()? {
        if let Some(function) = frame.function {
            names.push(last_segment(&function.demangle()?).to_owned());
        }
    }
    Ok(names)
}

/// Of `model::layers::k01_conv` the last part.
fn last_segment(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or_default()
}
