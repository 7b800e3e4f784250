//! The stack frame of a kernel: named words above a table, and what is saved below the caller.

use crate::program::Assembly;

/// Words of a stack frame.
#[derive(Debug)]
pub struct Frame {
    table_words: usize,
    /// Words that are copied from the start of the constants.
    header: Vec<&'static str>,
    /// Words that the function sets itself.
    locals: Vec<&'static str>,
    size: usize,
}

impl Frame {
    /// A frame with a table of some words at the stack pointer.
    pub fn new(table_words: usize, header: &[&'static str], locals: &[&'static str]) -> Frame {
        let table_words = table_words.next_multiple_of(4);
        // The stack pointer stays a multiple of eight; nine registers are not.
        let words = table_words + header.len().next_multiple_of(4) + locals.len();
        let size = (words * 4).next_multiple_of(8) + 4;
        Frame { table_words, header: header.to_vec(), locals: locals.to_vec(), size }
    }

    /// The words that the header of the constants must hold, a multiple of four.
    pub fn header_words(&self) -> usize {
        self.header.len().next_multiple_of(4)
    }

    /// Saves what has to be preserved, makes the frame and copies the header from `constants`, which then points behind it.
    pub fn enter(&self, a: &mut Assembly, constants: &str) {
        a.op("push {r4-r11, lr}");
        a.op("vpush {d8-d15}");
        a.op(format!("sub sp, #{}", self.size));
        for i in 0..self.header_words() / 4 {
            a.op(format!("vldrw.u32 q0, [{constants}], #16"));
            a.op(format!("vstrw.32 q0, [sp, #{}]", self.table_words * 4 + i * 16));
        }
    }

    /// Undoes `enter` and returns.
    pub fn leave(&self, a: &mut Assembly) {
        a.op(format!("add sp, #{}", self.size));
        a.ops("vpop {d8-d15}\n pop {r4-r11, pc}");
    }

    /// A word.
    pub fn at(&self, name: &str) -> String {
        let header = self.header.iter().position(|other| *other == name);
        let local = || self.locals.iter().position(|other| *other == name).map(|i| i + self.header_words());
        let index = header.or_else(local).expect("the frame has a word of this name");
        format!("[sp, #{}]", (self.table_words + index) * 4)
    }

    /// A text in which `{NAME}` stands for a word.
    pub fn ops(&self, a: &mut Assembly, text: &str) {
        let mut done = text.to_owned();
        for name in self.header.iter().chain(&self.locals) {
            done = done.replace(&format!("{{{name}}}"), &self.at(name));
        }
        a.ops(&done);
    }
}
