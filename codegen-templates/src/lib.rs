//! The shapes of emitted files. Templates hold what every model's files have in common; typed contexts hold the rest.
//!
//! This crate knows neither models nor loops: statements arrive as text.

pub mod c;
pub mod page;
