//! Losses as a picture: SVG, or a page around it.

use super::trainer::Report;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 40.0;
const COLORS: [(&str, &str); 2] = [("training loss", "#2563eb"), ("validation loss", "#dc2626")];

/// Training and validation loss over iterations.
pub fn svg(reports: &[Report]) -> String {
    let series = |f: fn(&Report) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = reports.iter().filter_map(|r| Some((r.iteration as f64, f(r)?)));
        points.filter(|p| p.1.is_finite()).collect()
    };
    let lines = [series(|r| r.train_loss), series(|r| r.val_loss)];
    let all = || lines.iter().flatten();
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    let top = nice(all().map(|p| p.1).fold(0.0, f64::max));
    let x = |v: f64| LEFT + v / last * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - v / top * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for k in 0..=5 {
        let (v, at) = (top * f64::from(k) / 5.0, y(top * f64::from(k) / 5.0));
        let end = WIDTH - RIGHT;
        let _ = writeln!(out, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            short(v)
        );
        let v = (last * f64::from(k) / 5.0).round();
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{v}</text>",
            x(v),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">iteration</text>", HEIGHT - 6.0);
    for (i, (points, (name, color))) in lines.iter().zip(COLORS).enumerate() {
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>",
            path.join(" ")
        );
        for p in points {
            let (cx, cy) = (x(p.0), y(p.1));
            let _ = writeln!(
                out,
                "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2\" fill=\"{color}\"><title>{name} {:.4} at {}</title></circle>",
                p.1, p.0
            );
        }
        let at = LEFT + 150.0 * i as f64;
        let _ = writeln!(out, "<text x=\"{at}\" y=\"16\" fill=\"{color}\">{name}</text>");
    }
    out.push_str("</svg>\n");
    out
}

/// A page with the plot and a table of all reports.
pub fn html(reports: &[Report]) -> String {
    let mut rows = String::new();
    let cell = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.4}"));
    for r in reports {
        let _ = writeln!(
            rows,
            "<tr><td>{}<td>{}<td>{}<td>{:.3e}<td>{:.1}<td>{}<td>{:.3}",
            r.iteration,
            cell(r.train_loss),
            cell(r.val_loss),
            r.learning_rate,
            r.tokens_per_second,
            r.trained_tokens,
            r.peak_memory_gb
        );
    }
    format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Fine-tuning</title>\n<style>body{{font-family:sans-serif;\
         max-width:760px;margin:2em auto}}table{{border-collapse:collapse}}td,th{{padding:2px 10px;text-align:right}}\
         </style>\n{}<table>\n<tr><th>iteration<th>training loss<th>validation loss<th>learning rate<th>tokens/s\
         <th>trained tokens<th>peak memory, GB\n{rows}</table>\n",
        svg(reports)
    )
}

/// The least of 1, 2, 5 times a power of ten that is not below `v`.
fn nice(v: f64) -> f64 {
    if v <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(v.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|k| k * power).find(|&n| n >= v).unwrap_or(v)
}

fn short(v: f64) -> String {
    let text = format!("{v:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}
