//! Writing functions of the loop language by hand, with closures for the blocks.

use super::{
    Access, Address, Affine, Assembly, Body, Buffer, Elem, Expr, Function, Index, Interval, Param, Reg, Signature,
    Stmt, Type, Var, VectorUnit,
};

/// Builds one [`Function`]. Statements go to the innermost open block.
#[derive(Debug)]
pub struct FunctionBuilder {
    function: Function,
    blocks: Vec<Vec<Stmt>>,
    /// Names for parts of parameters: the buffer and where the part begins. They are numbered from the end, so that they
    /// are no parameters, and are resolved wherever a buffer is accessed.
    parts: Vec<(Buffer, usize)>,
}

impl FunctionBuilder {
    /// An empty function.
    pub fn new(name: impl Into<String>, doc: Vec<String>) -> Self {
        let name = name.into();
        let function = Function {
            layer: name.clone(),
            name,
            doc,
            params: vec![],
            vectors: None,
            vars: vec![],
            regs: vec![],
            body: Body::Loops(vec![]),
        };
        FunctionBuilder { function, blocks: vec![vec![]], parts: vec![] }
    }

    /// Adds a parameter.
    pub fn param(&mut self, name: &str, elem: Elem, len: usize, access: Access) -> Buffer {
        let signature = Signature { name: name.to_owned(), elem, len };
        self.function.params.push(Param { signature, access });
        Buffer::Param(self.function.params.len() - 1)
    }

    /// The part of a buffer from an element on, as a buffer by itself.
    pub fn part(&mut self, buffer: Buffer, start: usize) -> Buffer {
        self.parts.push((buffer, start));
        Buffer::Param(usize::MAX - (self.parts.len() - 1))
    }

    fn resolved(&self, buffer: Buffer) -> (Buffer, i64) {
        let part = match buffer {
            Buffer::Param(index) => self.parts.get(usize::MAX - index),
            Buffer::Blob(_) => None,
        };
        part.map_or((buffer, 0), |&(whole, start)| (whole, start as i64))
    }

    /// `for name in 0..count`. A single iteration is inlined: the body then sees the index 0. None is left out.
    pub fn each(&mut self, name: &str, count: usize, body: impl FnOnce(&mut Self, Affine)) {
        match count {
            0 => return,
            1 => return body(self, Affine::from(0)),
            _ => {}
        }
        let var = self.var(name);
        let body = self.block(|f| body(f, var.into()));
        self.push(Stmt::For { var, count: count as i64, body });
    }

    /// The taps of a window that fall inside an axis; see [`Stmt::Taps`]. The body gets `tap` and `at`.
    pub fn taps(
        &mut self,
        (tap, at): (&str, &str),
        start: Affine,
        count: usize,
        dilation: usize,
        extent: usize,
        body: impl FnOnce(&mut Self, Affine, Affine),
    ) {
        let (tap, at) = (self.var(tap), self.var(at));
        let body = self.block(|f| body(f, tap.into(), at.into()));
        let (count, dilation, extent) = (count as i64, dilation as i64, extent as i64);
        self.push(Stmt::Taps { tap, at, start, count, dilation, extent, body });
    }

    /// Declares an immutable value and returns it.
    pub fn bind(&mut self, name: &str, ty: Type, value: Expr) -> Expr {
        let reg = self.reg(name, ty);
        self.push(Stmt::Let { reg, value });
        Expr::Reg(reg)
    }

    /// Declares a mutable register.
    pub fn mutable(&mut self, name: &str, ty: Type, init: Expr) -> Reg {
        self.bounded(name, ty, init, None)
    }

    /// Declares a mutable register of which the builder knows all values.
    pub fn bounded(&mut self, name: &str, ty: Type, init: Expr, bound: Option<Interval>) -> Reg {
        let reg = self.reg(name, ty);
        self.push(Stmt::Mut { reg, init, bound });
        reg
    }

    /// `reg = value`.
    pub fn set(&mut self, reg: Reg, value: Expr) {
        self.push(Stmt::Set { reg, value });
    }

    /// `reg += value`.
    pub fn accumulate(&mut self, reg: Reg, value: Expr) {
        self.push(Stmt::Accumulate { reg, value });
    }

    /// An element of a buffer.
    pub fn load(&self, buffer: Buffer, index: impl Into<Affine>) -> Expr {
        let (buffer, start) = self.resolved(buffer);
        Expr::Load(buffer, Index::Affine(index.into() + start))
    }

    /// An element of a buffer at a computed index.
    pub fn lookup(&self, buffer: Buffer, index: Expr) -> Expr {
        let (buffer, start) = self.resolved(buffer);
        let index = if start == 0 { index } else { index.add(Expr::i32(start)) };
        Expr::Load(buffer, Index::Value(Box::new(index)))
    }

    /// Stores an element.
    pub fn store(&mut self, buffer: Buffer, index: impl Into<Affine>, value: Expr) {
        let (buffer, start) = self.resolved(buffer);
        self.push(Stmt::Store { buffer, index: index.into() + start, value });
    }

    /// Says which layer the function computes, if it is not named after it.
    pub fn of_layer(mut self, layer: &str) -> Self {
        self.function.layer = layer.to_owned();
        self
    }

    /// Says which vector instructions the function calls.
    pub fn vectors(&mut self, unit: &'static VectorUnit) {
        self.function.vectors = Some(unit);
    }

    /// The address of `elements` elements that an intrinsic loads. `pointee` is what it takes a pointer to.
    pub fn source(&self, buffer: Buffer, index: impl Into<Affine>, elements: usize, pointee: &'static str) -> Expr {
        let (buffer, start) = self.resolved(buffer);
        Expr::Address(Address { buffer, index: index.into() + start, elements, writes: false, pointee })
    }

    /// The address of `elements` elements that an intrinsic stores.
    pub fn target(&self, buffer: Buffer, index: impl Into<Affine>, elements: usize, pointee: &'static str) -> Expr {
        let (buffer, start) = self.resolved(buffer);
        Expr::Address(Address { buffer, index: index.into() + start, elements, writes: true, pointee })
    }

    /// Calls an intrinsic that returns nothing.
    pub fn call(&mut self, intrinsic: impl Into<String>, args: Vec<Expr>) {
        self.push(Stmt::Call { intrinsic: intrinsic.into(), args });
    }

    /// A comment line.
    pub fn comment(&mut self, text: impl Into<String>) {
        self.push(Stmt::Comment(text.into()));
    }

    /// The finished function.
    pub fn finish(mut self) -> Function {
        self.function.body = Body::Loops(self.blocks.pop().expect("the outermost block is open until the end"));
        self.function
    }

    /// The finished function, with a body in assembly.
    pub fn finish_assembly(mut self, assembly: Assembly) -> Function {
        self.function.body = Body::Assembly(assembly);
        self.function
    }

    fn var(&mut self, name: &str) -> Var {
        self.function.vars.push(name.to_owned());
        Var(self.function.vars.len() - 1)
    }

    fn reg(&mut self, name: &str, ty: Type) -> Reg {
        self.function.regs.push((name.to_owned(), ty));
        Reg(self.function.regs.len() - 1)
    }

    fn push(&mut self, stmt: Stmt) {
        self.blocks.last_mut().expect("a block is open").push(stmt);
    }

    fn block(&mut self, body: impl FnOnce(&mut Self)) -> Vec<Stmt> {
        self.blocks.push(vec![]);
        body(self);
        self.blocks.pop().expect("the block pushed above")
    }
}
