//! Whole functions in the instructions of a target, for inner loops that no compiler may spoil.
//!
//! The same text is printed in C and in Rust. Control flow is counted loops only, so the number of executed instructions
//! is known when the text is: each block says how often it runs. What a layer differs in (sizes, strides, counts) is
//! best read from its constants, because functions of equal text are printed once and shared by all their layers.

/// A function body in assembly.
///
/// It follows the procedure call standard: the parameters of the [`Function`](super::Function), all of them addresses,
/// arrive in registers and on the stack, and what the standard says is preserved is preserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    /// Identifier under which the function is printed, for example `pointwise`.
    pub kernel: String,
    /// Lines of the comment above it: what it computes and how, without what is special to a layer.
    pub doc: Vec<String>,
    /// Condition of the C preprocessor under which the text assembles, for example `defined(__ARM_FEATURE_DSP)`.
    pub requires: &'static str,
    /// How the text is written.
    pub dialect: Dialect,
    /// Directives that Rust's assembler needs in front, where C gets the same by the compiler's flags.
    pub rust_directives: &'static [&'static str],
    items: Vec<Item>,
}

/// A language of assemblers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Arm's Thumb, unified syntax.
    Thumb,
    /// RISC-V.
    RiscV,
}

impl Dialect {
    /// What begins a comment.
    fn comment(self) -> &'static str {
        match self {
            Dialect::Thumb => "@",
            Dialect::RiscV => "#",
        }
    }

    /// Directives in front of a function, where the compiler does not write them.
    pub fn directives(self) -> &'static [&'static str] {
        match self {
            Dialect::Thumb => &[".syntax unified", ".thumb", ".thumb_func"],
            Dialect::RiscV => &[],
        }
    }
}

/// A part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// One instruction.
    Instruction(String),
    /// A line that makes no instruction: data, alignment.
    Directive(String),
    /// A full-line comment.
    Comment(String),
    /// A local label, referred to as `1b` or `1f`.
    Label(u32),
    /// The body is written `times` times (`.rept`).
    Repeat {
        /// Number of copies.
        times: u32,
        /// What is copied.
        body: Vec<Item>,
    },
    /// The body is written `copies` times; over the whole call its copies run `times` times, wherever they stand.
    Total {
        /// Number of copies.
        copies: u32,
        /// Number of runs in a call; not a part of the text.
        times: u64,
        /// What is copied.
        body: Vec<Item>,
    },
    /// The body is written once and runs `times` times whenever the code around it runs once.
    Passes {
        /// Number of passes; not a part of the text.
        times: u64,
        /// A loop from its label to its branch, or a block that a branch can skip.
        body: Vec<Item>,
    },
}

impl Assembly {
    /// An empty body.
    pub fn new(kernel: impl Into<String>, doc: Vec<String>, requires: &'static str) -> Assembly {
        Assembly { kernel: kernel.into(), doc, requires, dialect: Dialect::Thumb, rust_directives: &[], items: vec![] }
    }

    /// Adds an instruction.
    pub fn op(&mut self, text: impl Into<String>) {
        self.items.push(Item::Instruction(text.into()));
    }

    /// Adds several instructions, one in each line of `text`.
    pub fn ops(&mut self, text: &str) {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| self.op(line));
    }

    /// Adds a line that makes no instruction.
    pub fn directive(&mut self, text: impl Into<String>) {
        self.items.push(Item::Directive(text.into()));
    }

    /// Adds a comment line.
    pub fn comment(&mut self, text: impl Into<String>) {
        self.items.push(Item::Comment(text.into()));
    }

    /// Adds a local label. Labels of digits 0 and 1 only are left to nobody: some assemblers read them as binary numbers.
    pub fn label(&mut self, number: u32) {
        self.items.push(Item::Label(number));
    }

    /// Writes a body `times` times.
    pub fn repeat(&mut self, times: u32, body: impl FnOnce(&mut Assembly)) {
        let body = self.nested(body);
        match times {
            0 => {}
            1 => self.items.extend(body),
            _ => self.items.push(Item::Repeat { times, body }),
        }
    }

    /// Writes a body that runs `times` times whenever the code around it runs once: a loop with its label and branch, or
    /// a block that is skipped or not.
    pub fn passes(&mut self, times: u64, body: impl FnOnce(&mut Assembly)) {
        let body = self.nested(body);
        self.items.push(Item::Passes { times, body });
    }

    /// Writes a body once that runs `times` times in a call, whatever is around it.
    pub fn total(&mut self, times: u64, body: impl FnOnce(&mut Assembly)) {
        self.copies(1, times, body);
    }

    /// Writes a body `copies` times. The copies run `times` times in a call: a loop that is unrolled and entered in its
    /// middle, so that any number of steps needs no loop for the rest.
    pub fn copies(&mut self, copies: u32, times: u64, body: impl FnOnce(&mut Assembly)) {
        let body = self.nested(body);
        self.items.push(Item::Total { copies, times, body });
    }

    fn nested(&mut self, body: impl FnOnce(&mut Assembly)) -> Vec<Item> {
        let outer = std::mem::take(&mut self.items);
        body(self);
        std::mem::replace(&mut self.items, outer)
    }

    /// Instructions that one call executes.
    pub fn instructions(&self) -> u64 {
        let (around, total) = executed(&self.items);
        around + total
    }

    /// Instructions that the text contains, repetitions written out.
    pub fn length(&self) -> u64 {
        written(&self.items)
    }

    /// The text, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![];
        print(&self.items, 1, self.dialect, &mut lines);
        lines
    }
}

/// Instructions that run whenever the items do, and those that are counted for the whole call.
fn executed(items: &[Item]) -> (u64, u64) {
    let count = |item: &Item| match item {
        Item::Instruction(_) => (1, 0),
        Item::Directive(_) | Item::Comment(_) | Item::Label(_) => (0, 0),
        Item::Repeat { times, body } => scaled(executed(body), u64::from(*times)),
        Item::Passes { times, body } => scaled(executed(body), *times),
        Item::Total { times, body, .. } => {
            let (around, total) = executed(body);
            (0, around * times + total)
        }
    };
    items.iter().map(count).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn scaled((around, total): (u64, u64), times: u64) -> (u64, u64) {
    (around * times, total)
}

fn written(items: &[Item]) -> u64 {
    let count = |item: &Item| match item {
        Item::Instruction(_) => 1,
        Item::Directive(_) | Item::Comment(_) | Item::Label(_) => 0,
        Item::Repeat { times, body } => u64::from(*times) * written(body),
        Item::Total { copies, body, .. } => u64::from(*copies) * written(body),
        Item::Passes { body, .. } => written(body),
    };
    items.iter().map(count).sum()
}

fn print(items: &[Item], depth: usize, dialect: Dialect, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for item in items {
        match item {
            Item::Instruction(text) | Item::Directive(text) => lines.push(format!("{indent}{text}")),
            Item::Comment(text) => lines.push(format!("{indent}{} {text}", dialect.comment())),
            Item::Label(number) => lines.push(format!("{number}:")),
            Item::Total { copies: 1, body, .. } => print(body, depth, dialect, lines),
            Item::Repeat { times, body } | Item::Total { copies: times, body, .. } => {
                lines.push(format!("{indent}.rept {times}"));
                print(body, depth + 1, dialect, lines);
                lines.push(format!("{indent}.endr"));
            }
            Item::Passes { body, .. } => print(body, depth, dialect, lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executed_instructions_are_counted_through_loops_and_copies() {
        let mut a = Assembly::new("sum", vec![], "defined(__arm__)");
        a.op("movs r2, #0");
        a.passes(10, |a| {
            a.label(2);
            a.repeat(4, |a| a.ops("ldrb r3, [r0], #1\n adds r2, r3"));
            a.ops("subs r1, #1\n bne 2b");
        });
        a.passes(0, |a| a.op("nop"));
        a.op("bx lr");
        assert_eq!(a.instructions(), 1 + 10 * (4 * 2 + 2) + 1);
        assert_eq!(a.length(), 1 + 4 * 2 + 2 + 1 + 1);
        let lines = a.lines();
        a.passes(10, |a| a.copies(8, 3, |a| a.total(2, |a| a.op("nop"))));
        assert_eq!(a.instructions(), 1 + 10 * (4 * 2 + 2) + 1 + 2, "total counts are not multiplied");
        assert_eq!(lines[1], "2:");
        assert_eq!(&lines[2..6], ["  .rept 4", "    ldrb r3, [r0], #1", "    adds r2, r3", "  .endr"]);
    }
}
