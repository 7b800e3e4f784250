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
    /// Directives that Rust's assembler needs in front, where C gets the same by the compiler's flags.
    pub rust_directives: &'static [&'static str],
    items: Vec<Item>,
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
    /// The body is written once and runs `times` times whenever the code around it runs once.
    Passes {
        /// Number of passes; not a part of the text.
        times: u64,
        /// A loop from its label to its branch, or a block that a branch can skip.
        body: Vec<Item>,
    },
    /// The body is written once and runs `times` times in a whole call, wherever it stands.
    InAll {
        /// Number of passes in a call; not a part of the text.
        times: u64,
        /// A loop or block whose passes are not the same whenever the code around it runs.
        body: Vec<Item>,
    },
}

impl Assembly {
    /// An empty body.
    pub fn new(kernel: impl Into<String>, doc: Vec<String>, requires: &'static str) -> Assembly {
        Assembly { kernel: kernel.into(), doc, requires, rust_directives: &[], items: vec![] }
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

    /// Writes a body that runs `times` times in a whole call, where it does not run equally often in each pass of the loops
    /// around it.
    pub fn passes_in_all(&mut self, times: u64, body: impl FnOnce(&mut Assembly)) {
        let body = self.nested(body);
        self.items.push(Item::InAll { times, body });
    }

    fn nested(&mut self, body: impl FnOnce(&mut Assembly)) -> Vec<Item> {
        let outer = std::mem::take(&mut self.items);
        body(self);
        std::mem::replace(&mut self.items, outer)
    }

    /// Instructions that one call executes.
    pub fn instructions(&self) -> u64 {
        executed(&self.items, 1)
    }

    /// Instructions that the text contains, repetitions written out.
    pub fn length(&self) -> u64 {
        written(&self.items)
    }

    /// The text, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![];
        print(&self.items, 1, &mut lines);
        lines
    }
}

/// Instructions of items that run `passes` times.
fn executed(items: &[Item], passes: u64) -> u64 {
    let count = |item: &Item| match item {
        Item::Instruction(_) => passes,
        Item::Directive(_) | Item::Comment(_) | Item::Label(_) => 0,
        Item::Repeat { times, body } => executed(body, passes * u64::from(*times)),
        Item::Passes { times, body } => executed(body, passes * times),
        Item::InAll { times, body } => executed(body, *times),
    };
    items.iter().map(count).sum()
}

fn written(items: &[Item]) -> u64 {
    let count = |item: &Item| match item {
        Item::Instruction(_) => 1,
        Item::Directive(_) | Item::Comment(_) | Item::Label(_) => 0,
        Item::Repeat { times, body } => u64::from(*times) * written(body),
        Item::Passes { body, .. } | Item::InAll { body, .. } => written(body),
    };
    items.iter().map(count).sum()
}

fn print(items: &[Item], depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for item in items {
        match item {
            Item::Instruction(text) | Item::Directive(text) => lines.push(format!("{indent}{text}")),
            Item::Comment(text) => lines.push(format!("{indent}@ {text}")),
            Item::Label(number) => lines.push(format!("{number}:")),
            Item::Repeat { times, body } => {
                lines.push(format!("{indent}.rept {times}"));
                print(body, depth + 1, lines);
                lines.push(format!("{indent}.endr"));
            }
            Item::Passes { body, .. } | Item::InAll { body, .. } => print(body, depth, lines),
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
        assert_eq!(lines[1], "2:");
        assert_eq!(&lines[2..6], ["  .rept 4", "    ldrb r3, [r0], #1", "    adds r2, r3", "  .endr"]);
    }
}
