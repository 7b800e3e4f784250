//! Statements of Rust.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::quote;

use super::super::common::{any_expr, plain_text, type_of, uses_var};
use super::expr::{Names, Strength, at_least, elem_type, element, halves, position, print, value_type};
use crate::program::{Address, Affine, Buffer, Elem, Expr, Index, Interval, Reg, Stmt, Type, Var};

/// An expression that is longer is taken apart: rustfmt breaks calls and chains above this width.
const WIDTH: usize = 58;

/// Lines end before this column, so that no formatter breaks them.
const LINE: usize = 86;

/// Name of the macro whose calls become comments; see [`super::comments`].
pub const COMMENT: &str = "ptqc_comment";

/// The statements of a function's body. `depth` is the number of blocks around them.
pub fn block(names: &mut Names, body: &[Stmt], depth: usize) -> TokenStream {
    let used = names.scope.enter();
    let stmts: TokenStream = body.iter().map(|stmt| Printer { names, depth }.stmt(stmt)).collect();
    names.scope.leave(used);
    stmts
}

/// Text as tokens.
pub fn tokens(text: &str) -> TokenStream {
    text.parse().expect("printed expressions are Rust")
}

/// A name as a token.
pub fn ident(name: &str) -> Ident {
    Ident::new(name, Span::call_site())
}

/// A line comment that survives formatting.
pub fn comment(text: &str) -> TokenStream {
    let (name, text) = (ident(COMMENT), plain_text(text));
    quote!(#name!(#text);)
}

struct Printer<'p, 'a> {
    names: &'p mut Names<'a>,
    depth: usize,
}

impl Printer<'_, '_> {
    fn stmt(&mut self, stmt: &Stmt) -> TokenStream {
        match stmt {
            Stmt::Comment(text) => comment(text),
            Stmt::For { var, count, body } => {
                // The variable ends with its loop: the next loop may have the same.
                let used = self.names.scope.enter();
                let name = self.bind_var(*var, *count, uses_var(body, *var));
                let count = Literal::i64_unsuffixed(*count);
                let body = block(self.names, body, self.depth + 1);
                self.names.scope.leave(used);
                quote!(for #name in 0..#count { #body })
            }
            Stmt::Taps { tap, at, start, count, dilation, extent, body } => {
                self.taps((*tap, *at), start, (*count, *dilation, *extent), body)
            }
            Stmt::Let { reg, value } => self.declare(*reg, value, &quote!()),
            Stmt::Mut { reg, init, .. } => self.declare(*reg, init, &quote!(mut)),
            Stmt::Set { reg, value } => self.set(*reg, value),
            Stmt::Accumulate { reg, value } => {
                let name = self.names.scope.reg(*reg).to_owned();
                let (lets, value) = self.fitted(value, name.len() + 5);
                let (name, value) = (ident(&name), tokens(&self.print(&value).0));
                quote!(#lets #name += #value;)
            }
            Stmt::Store { buffer, index, value } => self.store(*buffer, index, value),
            Stmt::Call { intrinsic, args } => self.call(intrinsic, args),
        }
    }

    fn call(&mut self, intrinsic: &str, args: &[Expr]) -> TokenStream {
        let call = Expr::Call {
            intrinsic: intrinsic.to_owned(),
            args: args.to_vec(),
            ty: Type::I32,
            values: Interval::point(0),
        };
        let (lets, value) = self.fitted(&call, 1);
        let text = tokens(&self.print(&value).0);
        quote!(#lets #text;)
    }

    fn print(&self, value: &Expr) -> (String, Strength) {
        print(self.names, value)
    }

    fn declare(&mut self, reg: Reg, value: &Expr, mutable: &TokenStream) -> TokenStream {
        let (wanted, ty) = self.names.scope.function.regs[reg.0].clone();
        let (lets, value) = self.fitted(value, wanted.len() + 16);
        let text = tokens(&self.print(&value).0);
        let name = ident(&self.names.scope.bind_reg(reg, &wanted));
        match value {
            // Nothing but the name would tell the type of a literal.
            Expr::Const(..) => {
                let ty = ident(value_type(ty));
                quote!(#lets let #mutable #name: #ty = #text;)
            }
            _ => quote!(#lets let #mutable #name = #text;),
        }
    }

    fn set(&mut self, reg: Reg, value: &Expr) -> TokenStream {
        let name = self.names.scope.reg(reg).to_owned();
        let (lets, value) = self.fitted(value, name.len() + 4);
        let (name, value) = (ident(&name), tokens(&self.print(&value).0));
        quote!(#lets #name = #value;)
    }

    /// The taps of a window: the loop begins at the first that is inside of the input and is left at the end of the
    /// axis. The comparison for that also shows rustc that the position is inside, so it remains where only the
    /// beginning is cut off.
    fn taps(
        &mut self,
        (tap, at): (Var, Var),
        start: &Affine,
        (count, dilation, extent): (i64, i64, i64),
        body: &[Stmt],
    ) -> TokenStream {
        let (lowest, highest) = self.names.scope.interval(start);
        let clips = lowest < 0 || highest + (count - 1) * dilation >= extent;
        let positioned = clips || uses_var(body, at);
        let first = tokens(&self.first_tap(start, dilation));
        let used = self.names.scope.enter();
        let tap_name = self.bind_var(tap, count, positioned || uses_var(body, tap));
        let text = tokens(&self.position(&(Affine::from(tap) * dilation + start.clone())));
        let wanted = self.names.scope.function.vars[at.0].clone();
        let at_name = self.names.scope.fresh(&wanted);
        self.names.scope.bind_var_as(at, at_name.clone(), extent - 1);
        let at_name = ident(&at_name);
        let (count, extent) = (Literal::i64_unsuffixed(count), Literal::i64_unsuffixed(extent));
        let position = positioned.then(|| quote!(let #at_name = #text;));
        let check = clips.then(|| quote!(if #at_name >= #extent { break; }));
        let body = block(self.names, body, self.depth + 1);
        self.names.scope.leave(used);
        quote!(for #tap_name in #first..#count { #position #check #body })
    }

    /// The first tap that is not before the input.
    fn first_tap(&self, start: &Affine, dilation: i64) -> String {
        if self.names.scope.interval(start).0 >= 0 {
            return "0".to_owned();
        }
        if start.terms.is_empty() {
            return ((dilation - 1 - start.constant) / dilation).to_string();
        }
        let (added, subtracted) = halves(start);
        let missing = format!("usize::saturating_sub({}, {})", self.position(&subtracted), self.position(&added));
        if dilation == 1 { missing } else { format!("{missing}.div_ceil({dilation})") }
    }

    fn position(&self, index: &Affine) -> String {
        position(self.names, index)
    }

    fn bind_var(&mut self, var: Var, count: i64, used: bool) -> TokenStream {
        if used {
            let name = ident(&self.names.scope.bind_var(var, count - 1));
            return quote!(#name);
        }
        self.names.scope.bind_var_as(var, "_".to_owned(), count - 1);
        quote!(_)
    }

    fn store(&mut self, buffer: Buffer, index: &Affine, value: &Expr) -> TokenStream {
        let (mut index, mut lets) = (index.clone(), quote!());
        if 4 * self.depth + self.names.buffer(buffer).len() + self.position(&index).len() + 43 > LINE {
            (lets, index) = self.named_position(&index);
        }
        let target = format!("{}[{}]", self.names.buffer(buffer), self.position(&index));
        let elem = self.names.scope.extent(buffer).0;
        // A cast to the element's type that follows another cast says the same twice.
        let value = match value {
            Expr::Cast(_, inner) if matches!(elem, Elem::I8 | Elem::U8 | Elem::I16) => inner,
            other => other,
        };
        let (more, value) = self.fitted(value, target.len() + 12);
        lets.extend(more);
        let value = self.narrowed(elem, &value);
        let value = match self.names.packed.contains(&buffer) {
            true => format!("store_{}({value})", elem_type(elem)),
            false => value,
        };
        let (target, value) = (tokens(&target), tokens(&value));
        quote!(#lets #target = #value;)
    }

    /// A value for an element: with a cast, unless it has the element's type already.
    fn narrowed(&self, elem: Elem, value: &Expr) -> String {
        match value {
            Expr::Load(source, index) if self.names.scope.extent(*source).0 == elem => {
                element(self.names, *source, index)
            }
            Expr::Const(_, value) => super::expr::number(*value),
            _ if matches!(elem, Elem::I8 | Elem::U8 | Elem::I16) => {
                format!("{} as {}", at_least(self.print(value), Strength::Cast), elem_type(elem))
            }
            _ => self.print(value).0,
        }
    }

    /// A value that fits a line on which `taken` columns are taken, and declarations of the parts that had to be
    /// named for that.
    fn fitted(&mut self, value: &Expr, taken: usize) -> (TokenStream, Expr) {
        let room = LINE.saturating_sub(4 * self.depth + taken).clamp(24, WIDTH);
        let mut value = value.clone();
        let mut lets = quote!();
        while self.print(&value).0.len() > room {
            let mut longest: Option<(usize, Expr)> = None;
            self.longest_part(&value, WIDTH.min(LINE.saturating_sub(4 * self.depth + 12)), &mut longest);
            let Some((_, part)) = longest else {
                if let Some(index) = long_index(self.names, &value) {
                    let (named, position) = self.named_position(&index);
                    lets.extend(named);
                    value = with_index(&value, &index, &position);
                    continue;
                }
                let Some(address) = any_address(&value) else { break };
                let (named, pointer) = self.named_part(&address, Type::I64);
                lets.extend(named);
                value = replaced(&value, &address, &pointer);
                continue;
            };
            let ty = type_of(&self.names.scope, &part);
            let (named, reg) = self.named_part(&part, ty);
            lets.extend(named);
            value = replaced(&value, &part, &reg);
        }
        (lets, value)
    }

    /// A declaration of a part of an expression, and the part as a register.
    fn named_part(&mut self, part: &Expr, ty: Type) -> (TokenStream, Expr) {
        let text = tokens(&self.print(part).0);
        let reg = self.names.scope.new_reg(ty);
        let name = ident(&self.names.scope.bind_reg(reg, part_name(part)));
        (quote!(let #name = #text;), Expr::Reg(reg))
    }

    /// A declaration of a position, and the position as a variable.
    fn named_position(&mut self, index: &Affine) -> (TokenStream, Affine) {
        let text = tokens(&self.position(index));
        let (var, name) = self.names.scope.bind_position(index, "at");
        let name = ident(&name);
        (quote!(let #name = #text;), var.into())
    }

    /// The longest part of an expression that fits a line and is worth a name.
    fn longest_part(&self, expr: &Expr, room: usize, longest: &mut Option<(usize, Expr)>) {
        for part in inside_clamp(expr).operands() {
            let width = self.print(part).0.len();
            let fits = width <= room && width > 16 && longest.as_ref().is_none_or(|(best, _)| width > *best);
            if fits && !matches!(part, Expr::Const(..) | Expr::Reg(_) | Expr::Address(_)) {
                *longest = Some((width, part.clone()));
            }
            self.longest_part(part, room, longest);
        }
    }
}

/// What a clamp limits, or else the expression itself: the two halves of a clamp stay together.
fn inside_clamp(expr: &Expr) -> &Expr {
    match expr {
        Expr::Min(max, hi) if matches!((&**max, &**hi), (Expr::Max(_, lo), Expr::Const(..)) if matches!(**lo, Expr::Const(..))) => {
            max
        }
        _ => expr,
    }
}

/// What to call a part of an expression.
fn part_name(part: &Expr) -> &'static str {
    match part {
        Expr::Add(..) | Expr::Sub(..) => "sum",
        Expr::Mul(..) => "product",
        Expr::Shr(..) => "scaled",
        Expr::Load(_, Index::Affine(_)) | Expr::Const(..) | Expr::Reg(_) => "value",
        Expr::Load(_, Index::Value(_)) => "entry",
        Expr::Index(_) => "position",
        Expr::Div(..) => "quotient",
        Expr::Min(..) | Expr::Max(..) => "limited",
        Expr::Cast(Type::I64 | Type::U64, _) => "wide",
        Expr::Cast(Type::I32 | Type::U32 | Type::Vector(_), _) => "narrow",
        Expr::Select { .. } => "chosen",
        Expr::Call { .. } => "part",
        Expr::Address(_) => "address",
    }
}

/// The first index in an expression that is worth a name.
fn long_index(names: &Names, expr: &Expr) -> Option<Affine> {
    match expr {
        Expr::Load(_, Index::Affine(index)) | Expr::Address(Address { index, .. })
            if position(names, index).len() > 8 =>
        {
            Some(index.clone())
        }
        _ => expr.operands().into_iter().find_map(|part| long_index(names, part)),
    }
}

/// The first address in an expression.
fn any_address(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Address(_) => Some(expr.clone()),
        _ => expr.operands().into_iter().find_map(any_address),
    }
}

/// `expr` with an index replaced.
fn with_index(expr: &Expr, index: &Affine, by: &Affine) -> Expr {
    let Some(old) = any_access(expr, index) else { return expr.clone() };
    let new = match &old {
        Expr::Load(buffer, _) => Expr::Load(*buffer, Index::Affine(by.clone())),
        Expr::Address(address) => Expr::Address(Address { index: by.clone(), ..address.clone() }),
        other => other.clone(),
    };
    replaced(expr, &old, &new)
}

/// A load or an address at an index.
fn any_access(expr: &Expr, index: &Affine) -> Option<Expr> {
    match expr {
        Expr::Load(_, Index::Affine(at)) | Expr::Address(Address { index: at, .. }) if at == index => {
            Some(expr.clone())
        }
        _ => expr.operands().into_iter().find_map(|part| any_access(part, index)),
    }
}

/// `expr` with every `part` of it replaced.
fn replaced(expr: &Expr, part: &Expr, by: &Expr) -> Expr {
    if expr == part {
        return by.clone();
    }
    let inner = |expr: &Expr| Box::new(replaced(expr, part, by));
    match expr {
        Expr::Const(..) | Expr::Reg(_) | Expr::Index(_) | Expr::Load(_, Index::Affine(_)) | Expr::Address(_) => {
            expr.clone()
        }
        Expr::Call { intrinsic, args, ty, values } => Expr::Call {
            intrinsic: intrinsic.clone(),
            args: args.iter().map(|arg| replaced(arg, part, by)).collect(),
            ty: *ty,
            values: *values,
        },
        Expr::Load(buffer, Index::Value(a)) => Expr::Load(*buffer, Index::Value(inner(a))),
        Expr::Add(a, b) => Expr::Add(inner(a), inner(b)),
        Expr::Sub(a, b) => Expr::Sub(inner(a), inner(b)),
        Expr::Mul(a, b) => Expr::Mul(inner(a), inner(b)),
        Expr::Div(a, b) => Expr::Div(inner(a), inner(b)),
        Expr::Min(a, b) => Expr::Min(inner(a), inner(b)),
        Expr::Max(a, b) => Expr::Max(inner(a), inner(b)),
        Expr::Shr(a, bits) => Expr::Shr(inner(a), *bits),
        Expr::Cast(ty, a) => Expr::Cast(*ty, inner(a)),
        Expr::Select { cmp, a, b, then, otherwise } => {
            Expr::Select { cmp: *cmp, a: inner(a), b: inner(b), then: inner(then), otherwise: inner(otherwise) }
        }
    }
}

/// Whether a block calls the helper for selections.
pub fn selects(body: &[Stmt]) -> bool {
    any_expr(body, &|_| false, &|expr| matches!(expr, Expr::Select { .. }))
}
