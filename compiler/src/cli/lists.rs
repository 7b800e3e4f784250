//! `ptqc targets` and `ptqc ops`.

use clap::Args;
use ptqc_target_runtimes::TARGETS;
use serde::Serialize;

use super::source::problem;
use crate::diag::{self, Code};
use crate::front::{REGISTRY, Support};

/// Options of the lists.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    kind: &'static str,
    description: &'static str,
}

/// Lists the targets.
pub fn targets(args: &ListArgs) -> diag::Result<()> {
    let entries = TARGETS.iter().map(|target| Entry { name: target.name, kind: "target", description: target.description });
    print(args, &entries.collect::<Vec<_>>(), false)
}

/// Lists the operators.
pub fn ops(args: &ListArgs) -> diag::Result<()> {
    let entries = REGISTRY.iter().map(|row| {
        let kind = match row.support {
            Support::Lowered(_) => "lowered",
            Support::PassThrough => "dropped",
            Support::Folded => "folded",
        };
        Entry { name: row.op_type, kind, description: row.summary }
    });
    print(args, &entries.collect::<Vec<_>>(), true)
}

fn print(args: &ListArgs, entries: &[Entry], with_kind: bool) -> diag::Result<()> {
    if args.json {
        let json = serde_json::to_string_pretty(entries).map_err(|error| problem(Code::Internal, error.to_string()))?;
        return super::say(&json);
    }
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let line = |entry: &Entry| match with_kind {
        true => format!("{:width$}  {:7}  {}", entry.name, entry.kind, entry.description),
        false => format!("{:width$}  {}", entry.name, entry.description),
    };
    super::say(&entries.iter().map(line).collect::<Vec<_>>().join("\n"))
}
