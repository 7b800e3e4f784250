//! Charts as SVG, drawn by plotters.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::analyze::{Histogram, TensorReport};
use crate::plan::MemoryUse;

/// What can go wrong with a picture in memory.
pub type Error = Box<dyn std::error::Error>;

/// Part of the bounds of a histogram of values that lies outside of the tensor's range, on each side.
const MARGIN: f64 = 1.0 / 18.0;

const INK: RGBColor = RGBColor(28, 39, 51);
const BLUE: RGBColor = RGBColor(38, 104, 176);
const ORANGE: RGBColor = RGBColor(217, 119, 32);
const RED: RGBColor = RGBColor(200, 69, 44);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn drawn(size: (u32, u32), draw: impl Fn(&Area) -> Result<(), Error>) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area)?;
        area.present()?;
    }
    Ok(scalable(svg))
}

/// With a view box in place of a size only, so that the page decides how large it is.
fn scalable(svg: String) -> String {
    if svg.contains("viewBox") {
        return svg;
    }
    let size = |name: &str| {
        let start = svg.find(&format!("{name}=\""))? + name.len() + 2;
        svg[start..].split('"').next().map(str::to_owned)
    };
    match (size("width"), size("height")) {
        (Some(width), Some(height)) => svg.replacen("<svg ", &format!("<svg viewBox=\"0 0 {width} {height}\" "), 1),
        _ => svg,
    }
}

/// Signal to noise along the network.
pub fn noise(tensors: &[TensorReport]) -> Result<String, Error> {
    let line: Vec<(i32, f64)> = along(tensors, |tensor| tensor.sqnr_db);
    let own: Vec<(i32, f64)> = along(tensors, |tensor| tensor.own_sqnr_db);
    let values = || line.iter().chain(&own).map(|(_, db)| *db);
    let (lo, hi) = (values().fold(0.0, f64::min), values().fold(10.0, f64::max) + 5.0);
    drawn((1100, 320), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(-1..tensors.len() as i32, lo..hi)?;
        let mesh = &mut chart.configure_mesh();
        mesh.disable_x_mesh().max_light_lines(1).y_label_formatter(&|db| format!("{db:.0}"));
        mesh.x_desc("tensor").y_desc("dB").axis_style(INK).draw()?;
        chart.draw_series(LineSeries::new(line.iter().copied(), BLUE.stroke_width(2)))?;
        chart.draw_series(own.iter().map(|&at| Circle::new(at, 3, ORANGE.filled())))?;
        Ok(())
    })
}

fn along(tensors: &[TensorReport], value: impl Fn(&TensorReport) -> Option<f64>) -> Vec<(i32, f64)> {
    tensors.iter().enumerate().filter_map(|(index, tensor)| Some((index as i32, value(tensor)?))).collect()
}

/// Shares of the final error.
pub fn shares(tensors: &[TensorReport]) -> Result<String, Error> {
    let percent = |tensor: &TensorReport| 100.0 * tensor.share;
    let hi = tensors.iter().map(percent).fold(1.0, f64::max) * 1.05;
    drawn((1100, 260), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(-1.0..tensors.len() as f64, 0.0..hi)?;
        let mesh = &mut chart.configure_mesh();
        mesh.disable_x_mesh().max_light_lines(1).x_label_formatter(&|x| format!("{x:.0}"));
        mesh.x_desc("tensor").y_desc("%").axis_style(INK).draw()?;
        chart.draw_series(tensors.iter().enumerate().map(|(index, tensor)| {
            let x = index as f64;
            Rectangle::new([(x - 0.4, 0.0), (x + 0.4, percent(tensor))], RED.filled())
        }))?;
        Ok(())
    })
}

/// A small histogram, on a logarithmic scale so that tails are seen. `range` is its own bounds where it shows what lies
/// outside of the integers.
pub fn histogram(histogram: &Histogram, range: Option<(f64, f64)>) -> Result<String, Error> {
    let height = |count: u64| (1.0 + count as f64).ln();
    let top = histogram.counts.iter().map(|&count| height(count)).fold(1.0, f64::max);
    let bins = histogram.counts.len() as f64;
    drawn((220, 64), |area| {
        let mut chart = ChartBuilder::on(area).margin(2).build_cartesian_2d(0.0..bins, 0.0..top)?;
        chart.draw_series(histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(
            |(bin, &count)| Rectangle::new([(bin as f64, 0.0), (bin as f64 + 0.9, height(count))], BLUE.filled()),
        ))?;
        if range.is_some() {
            let ends = [MARGIN * bins, (1.0 - MARGIN) * bins];
            chart.draw_series(ends.map(|x| PathElement::new(vec![(x, 0.0), (x, top)], RED)))?;
        }
        Ok(())
    })
}

/// The arena over time.
pub fn memory_map(uses: &[MemoryUse], arena: usize) -> Result<String, Error> {
    let end = uses.iter().map(|used| used.last + 1).max().unwrap_or(1);
    drawn((1100, 360), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end as f64, 0.0..arena.max(1) as f64)?;
        let mesh = &mut chart.configure_mesh();
        mesh.disable_mesh().x_label_formatter(&|x| format!("{x:.0}")).y_label_formatter(&|y| format!("{y:.0}"));
        mesh.x_desc("calls of layers").y_desc("bytes").axis_style(INK).draw()?;
        for (index, used) in uses.iter().enumerate() {
            let corners =
                [(used.first as f64, used.offset as f64), ((used.last + 1) as f64, (used.offset + used.bytes) as f64)];
            let color = Palette99::pick(index).mix(0.75);
            chart
                .draw_series([Rectangle::new(corners, color.filled()), Rectangle::new(corners, INK.stroke_width(1))])?;
        }
        Ok(())
    })
}
