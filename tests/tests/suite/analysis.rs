//! `ptqc report`: figures against independent ones, and the page as a browser shows it.

use std::process::Command;

use ptqc_tests::onnx::{Attr, Onnx, numbers};
use ptqc_tests::toolchain::{is_installed, must_not_skip};
use serde_json::Value;

use crate::process::{Folder, samples};

/// Two convolutions with a sum beside them, a pool and a classifier.
fn model() -> Onnx {
    Onnx::default()
        .input("x", &[1, 2, 8, 8])
        .weights("w1", &[4, 2, 3, 3], &numbers(1, 72))
        .weights("w2", &[4, 4, 3, 3], &numbers(2, 144))
        .weights("w3", &[4, 10], &numbers(3, 40))
        .node_with("Conv", &["x", "w1"], &["c1"], &[("pads", Attr::from([1, 1, 1, 1]))])
        .node("Relu", &["c1"], &["r1"])
        .node_with("Conv", &["r1", "w2"], &["c2"], &[("pads", Attr::from([1, 1, 1, 1]))])
        .node("Add", &["c2", "r1"], &["s"])
        .node("GlobalAveragePool", &["s"], &["g"])
        .node_with("Flatten", &["g"], &["f"], &[("axis", Attr::Int(1))])
        .node("MatMul", &["f", "w3"], &["y"])
        .output("y")
}

fn folder() -> Folder {
    Folder::with(vec![("m.onnx", model().bytes()), ("x.npy", samples(12, &[2, 8, 8]))])
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn tensor<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["tensors"].as_array().unwrap().iter().find(|tensor| tensor["tensor"] == name).unwrap()
}

fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().sum()
}

#[test]
fn figures_agree_with_those_of_the_evaluation() {
    let folder = folder();
    let report = json(&folder.ok("report m.onnx --calib x.npy --json"));
    let evaluation = json(&folder.ok("eval m.onnx --calib x.npy --data x.npy --json"));
    let (a, b) = (report["relative_rmse"].as_f64().unwrap(), evaluation["relative_rmse"].as_f64().unwrap());
    assert!((a - b).abs() < 1e-5 * b, "{a} is not {b}");
    // The output's noise is the same error in decibels.
    let decibels = tensor(&report, "y")["sqnr_db"].as_f64().unwrap();
    assert!((decibels + 20.0 * b.log10()).abs() < 1e-3, "{decibels} dB for an error of {b}");
    let tensors = report["tensors"].as_array().unwrap();
    let shares = sum(tensors.iter().map(|tensor| tensor["share"].as_f64().unwrap()));
    assert!((shares - 1.0).abs() < 1e-9, "shares add up to {shares}");
    for tensor in tensors {
        let own = &tensor["own_error"];
        let parts = sum(["clipping", "rounding", "operands", "weights"].map(|part| own[part].as_f64().unwrap()));
        assert!(parts == 0.0 || (parts - 1.0).abs() < 1e-9, "{tensor}");
        assert!(tensor["share"].as_f64().unwrap() >= 0.0 && tensor["cosine"].as_f64().unwrap() > 0.99, "{tensor}");
        let values = tensor["values"]["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap());
        assert_eq!(values.sum::<u64>() % 12, 0, "every sample has as many values");
    }
}

#[test]
fn a_range_that_is_too_narrow_is_found() {
    let folder = folder();
    folder.ok("calibrate m.onnx --calib x.npy --method min-max");
    let ranges = folder.text("m.ranges.toml");
    let narrowed: Vec<String> = ranges
        .lines()
        .map(|line| match line.starts_with("r1 =") || line.starts_with("\"r1\" =") {
            true => "r1 = { min = 0.0, max = 0.3 }".to_owned(),
            false => line.to_owned(),
        })
        .collect();
    assert_ne!(narrowed.join("\n"), ranges.trim_end(), "{ranges}");
    folder.write("narrow.toml", narrowed.join("\n").as_bytes());
    let good = json(&folder.ok("report m.onnx --ranges m.ranges.toml --data x.npy --json"));
    let bad = json(&folder.ok("report m.onnx --ranges narrow.toml --data x.npy --json"));
    assert!(tensor(&good, "r1")["clipped"].as_f64().unwrap() < 0.001);
    assert!(tensor(&bad, "r1")["clipped"].as_f64().unwrap() > 0.1);
    assert!(tensor(&bad, "r1")["own_error"]["clipping"].as_f64().unwrap() > 0.9);
    let first = &bad["advice"][0];
    assert_eq!((first["tensor"].as_str(), first["cause"].as_str()), (Some("r1"), Some("clipping")), "{bad}");
    assert!(first["gain"].as_f64().unwrap() > 0.5, "{first}");
}

#[test]
fn threads_do_not_change_a_report() {
    let folder = folder();
    let with_threads = |count: &str| {
        let mut command = folder.command("report m.onnx --calib x.npy --json");
        command.env("RAYON_NUM_THREADS", count).output().unwrap().stdout
    };
    assert_eq!(with_threads("1"), with_threads("3"));
}

#[test]
fn a_build_says_how_accurate_it_is() {
    let folder = folder();
    let told = folder.ok("build m.onnx --calib x.npy");
    assert!(told.contains("relative RMSE of the output 0.0"), "{told}");
    folder.ok("calibrate m.onnx --calib x.npy");
    let told = folder.ok("build m.onnx --ranges m.ranges.toml");
    assert!(told.contains("accuracy not measured"), "{told}");
    let outcome = folder.run("report m.onnx --ranges m.ranges.toml");
    assert!(outcome.code == 1 && outcome.stderr.contains("--data"), "{}", outcome.stderr);
}

/// Appended to the page: what the browser makes of it becomes the title.
const MEASURE: &str = "<script>
const wide = [...document.querySelectorAll('svg')].filter(svg => {
  const box = svg.getBoundingClientRect();
  return box.width > 50 && box.height > 20 && svg.querySelectorAll('*').length > 3;
});
document.title = JSON.stringify({
  pictures: document.querySelectorAll('svg').length,
  drawn: wide.length,
  rows: document.querySelectorAll('#tensors tbody tr').length,
  facts: document.querySelectorAll('#facts dd').length,
  overflow: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  requests: performance.getEntriesByType('resource').length,
});
</script>";

#[test]
fn a_browser_shows_the_page() {
    if !is_installed("chromium") {
        println!("skipped: chromium is not installed");
        assert!(!must_not_skip(), "nothing may be skipped here");
        return;
    }
    let folder = folder();
    let report = json(&folder.ok("report m.onnx --calib x.npy --html page.html --json --target cortex-m4"));
    let page = folder.text("page.html");
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a chart has no place for a value");
    folder.write("measured.html", (page + MEASURE).as_bytes());
    let profile = folder.path("profile");
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--window-size=1200,900", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", folder.path("measured.html").display()))
        .output()
        .unwrap();
    let dom = String::from_utf8(browser.stdout).unwrap();
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
    let seen = json(title);
    let tensors = report["tensors"].as_array().unwrap();
    let weights = tensors.iter().filter(|tensor| tensor.get("weights").is_some()).count();
    assert_eq!(seen["rows"], tensors.len(), "{seen}");
    assert_eq!(seen["pictures"], 3 + tensors.len() + weights, "{seen}");
    assert_eq!(seen["drawn"], seen["pictures"], "a picture is empty: {seen}");
    assert!(seen["facts"].as_u64() >= Some(6) && seen["overflow"] == false && seen["requests"] == 0, "{seen}");
}

/// Values of a point of which less is better.
fn costs(point: &Value) -> [f64; 4] {
    ["relative_rmse", "flash", "ram", "cycles"].map(|key| point[key].as_f64().unwrap())
}

#[test]
fn a_search_offers_what_the_evaluator_confirms() {
    let folder = folder();
    let told = folder.ok("search m.onnx --calib x.npy --target cortex-m4");
    assert!(told.contains("m.recipe.toml") && told.contains("on the Pareto front"), "{told}");
    let front = json(&folder.text("m.front.json"));
    let points = front["points"].as_array().unwrap();
    assert!(points.len() >= 4, "{front}");
    for point in points {
        folder.write("p.toml", point["recipe"].as_str().unwrap().as_bytes());
        let evaluation = json(&folder.ok("eval m.onnx --calib x.npy --data x.npy --recipe p.toml --json"));
        assert_eq!(evaluation["relative_rmse"], point["relative_rmse"], "{point}");
        let estimate = json(&folder.ok("estimate m.onnx --calib x.npy --target cortex-m4 --recipe p.toml --json"));
        let flash = ["code", "library", "weights"].map(|part| estimate["flash"][part].as_u64().unwrap());
        assert_eq!(point["flash"], flash.iter().sum::<u64>());
        let better = |other: &&Value| {
            let (a, b) = (costs(other), costs(point));
            a != b && a.iter().zip(&b).all(|(a, b)| a <= b)
        };
        let equal = points.iter().filter(|other| costs(other) == costs(point)).count();
        assert!(equal > 1 || point["on_front"] == !points.iter().any(|other| better(&other)), "{point}");
    }
    // 4 bits save flash and cost accuracy, 16 bits the other way round.
    let whole = |narrow: usize, wide: usize| {
        let fits = |point: &&Value| {
            let count = |key: &str| point[key].as_array().unwrap().len();
            count("narrow") == narrow && count("wide") == wide
        };
        points.iter().filter(fits).map(costs).next().unwrap()
    };
    assert!(whole(3, 0)[0] > whole(0, 0)[0] && whole(0, 1)[0] < whole(0, 0)[0]);
}

#[test]
fn a_search_keeps_to_its_budget_or_says_why_not() {
    let folder = folder();
    folder.ok("search m.onnx --calib x.npy --target cortex-m4");
    let front = json(&folder.text("m.front.json"));
    let points = front["points"].as_array().unwrap();
    let least = points.iter().map(|point| point["flash"].as_u64().unwrap()).min().unwrap();
    folder.ok(&format!("search m.onnx --calib x.npy --target cortex-m4 --max-flash {least} -o small.recipe.toml"));
    let small = folder.text("small.recipe.toml");
    let chosen = points.iter().find(|point| point["recipe"].as_str() == Some(&small)).unwrap();
    assert_eq!(chosen["flash"], least);
    folder.ok("build m.onnx --calib x.npy --target cortex-m4 --recipe small.recipe.toml -o out");
    let outcome = folder.run("search m.onnx --calib x.npy --target cortex-m4 --max-flash 1k -o never.toml");
    assert!(outcome.code == 1 && outcome.stderr.contains(&least.to_string()), "{}", outcome.stderr);
    assert!(!folder.list(".").contains(&"never.toml".to_owned()));
    let outcome = folder.run("search m.onnx --calib x.npy --max-drop 0.5");
    assert!(outcome.code == 1 && outcome.stderr.contains("--labels"), "{}", outcome.stderr);
}
