//! `ptqc targets` and `ptqc ops`.

use clap::Args;
use ptqc_target_runtimes::{TARGETS, Target};
use serde::Serialize;

use super::source::problem;
use crate::diag::{self, Code};
use crate::front::{QUANTIZED_OPERATORS, QuantizedOperator, REGISTRY, Row, Support, WRITTEN_OUT, WrittenOut};

/// Options of the lists.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A row of `ptqc targets`.
#[derive(Serialize)]
struct TargetRow {
    name: &'static str,
    description: &'static str,
    features: Vec<&'static str>,
}

/// A row of `ptqc ops`.
#[derive(Serialize)]
struct OperatorRow {
    name: String,
    kind: &'static str,
    opsets: String,
    precisions: &'static str,
    restrictions: &'static str,
    description: &'static str,
}

/// Lists the targets.
pub fn targets(args: &ListArgs) -> diag::Result<()> {
    let row = |target: &Target| TargetRow {
        name: target.name,
        description: target.description,
        features: target.features.iter().map(|feature| feature.name()).collect(),
    };
    let rows: Vec<TargetRow> = TARGETS.iter().map(row).collect();
    let cells = |row: &TargetRow| [row.name.to_owned(), row.description.to_owned(), row.features.join(", ")];
    print(args, &rows, ["target", "processor", "instructions that kernels can use"], cells)
}

/// Lists the operators.
pub fn ops(args: &ListArgs) -> diag::Result<()> {
    let row = |row: &Row| OperatorRow {
        name: row.op_type.to_owned(),
        kind: match row.support {
            Support::Lowered(_) => "lowered",
            Support::PassThrough => "dropped",
            Support::Folded => "folded",
        },
        opsets: format!("{}-{}", row.opsets().start(), row.opsets().end()),
        precisions: row.precisions(),
        restrictions: row.restrictions(),
        description: row.summary,
    };
    let quantized = |operator: &QuantizedOperator| OperatorRow {
        name: match operator.domain {
            "" => operator.op_type.to_owned(),
            domain => format!("{domain}.{}", operator.op_type),
        },
        kind: "written out",
        opsets: String::new(),
        precisions: "int8, uint8",
        restrictions: "constant scales",
        description: operator.summary,
    };
    let written_out = |operator: &WrittenOut| OperatorRow {
        name: operator.op_type.to_owned(),
        kind: "written out",
        opsets: String::new(),
        precisions: "as what it becomes",
        restrictions: "",
        description: operator.summary,
    };
    let mut rows: Vec<OperatorRow> = REGISTRY.iter().map(row).collect();
    rows.extend(QUANTIZED_OPERATORS.iter().map(quantized).chain(WRITTEN_OUT.iter().map(written_out)));
    rows.sort_by_cached_key(|row| (row.name.contains('.'), row.name.clone()));
    let cells = |row: &OperatorRow| {
        [&row.name, row.kind, &row.opsets, row.precisions, row.restrictions, row.description].map(str::to_owned)
    };
    print(args, &rows, ["operator", "becomes", "opsets", "precisions", "restrictions", "how"], cells)
}

fn print<R: Serialize, const N: usize>(
    args: &ListArgs,
    rows: &[R],
    head: [&str; N],
    cells: impl Fn(&R) -> [String; N],
) -> diag::Result<()> {
    if args.json {
        let json = serde_json::to_string_pretty(rows).map_err(|error| problem(Code::Internal, error.to_string()))?;
        return super::say(&json);
    }
    let table: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let widths: Vec<usize> =
        (0..N).map(|column| table.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    super::say(&table.iter().map(line).collect::<Vec<_>>().join("\n"))
}
