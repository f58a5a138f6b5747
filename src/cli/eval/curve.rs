//! The picture of a sweep: the score over the user's strength.

use std::fmt::Write as _;

use svg::node::element::{Circle, Line, Polygon, Polyline, Rectangle, Text};
use svg::Document;

const SIZE: [f64; 2] = [560.0, 340.0];
/// Left, top, right and bottom of the axes.
const AXES: [f64; 4] = [64.0, 44.0, 536.0, 284.0];
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";
const INK: &str = "#24292f";
const SOFT: &str = "#57606a";
const COLOUR: &str = "#3182bd";

/// Draws points of strength, score and the score's interval, in the order of strength.
pub fn picture(metric: &str, points: &[(f32, f64, [f64; 2])]) -> Document {
    let mut points = points.to_vec();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let strengths = span(points.iter().map(|p| f64::from(p.0)));
    let scores = span(points.iter().flat_map(|p| p.2));
    let [left, top, right, bottom] = AXES;
    let x = |strength: f64| {
        left + (strength - strengths[0]) / (strengths[1] - strengths[0]) * (right - left)
    };
    let y = |score: f64| bottom - (score - scores[0]) / (scores[1] - scores[0]) * (bottom - top);
    let mut picture = Document::new()
        .set("viewBox", (0, 0, SIZE[0], SIZE[1]))
        .set("font-family", FONTS)
        .set("font-size", 12)
        .add(
            Rectangle::new()
                .set("width", SIZE[0])
                .set("height", SIZE[1])
                .set("fill", "#ffffff"),
        )
        .add(
            text(
                left,
                24.0,
                "start",
                INK,
                &format!("{metric} over the strength of the edit"),
            )
            .set("font-size", 15),
        );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let score = scores[0] + share * (scores[1] - scores[0]);
        picture = picture
            .add(
                Line::new()
                    .set("x1", left)
                    .set("x2", right)
                    .set("y1", y(score))
                    .set("y2", y(score))
                    .set("stroke", "#eaeef2"),
            )
            .add(text(
                left - 8.0,
                y(score) + 4.0,
                "end",
                SOFT,
                &format!("{score:.3}"),
            ));
    }
    let upper = points.iter().map(|p| (p.0, p.2[1]));
    let lower = points.iter().rev().map(|p| (p.0, p.2[0]));
    let outline = |corners: &mut dyn Iterator<Item = (f32, f64)>| {
        corners.fold(String::new(), |mut line, (strength, score)| {
            let _ = write!(line, "{:.1},{:.1} ", x(strength.into()), y(score));
            line
        })
    };
    picture = picture
        .add(
            Polygon::new()
                .set("points", outline(&mut upper.chain(lower)))
                .set("fill", COLOUR)
                .set("fill-opacity", 0.15),
        )
        .add(
            Polyline::new()
                .set("points", outline(&mut points.iter().map(|p| (p.0, p.1))))
                .set("fill", "none")
                .set("stroke", COLOUR)
                .set("stroke-width", 2),
        );
    for (strength, score, _) in &points {
        let at = x((*strength).into());
        picture = picture
            .add(
                Circle::new()
                    .set("cx", at)
                    .set("cy", y(*score))
                    .set("r", 3)
                    .set("fill", COLOUR),
            )
            .add(text(
                at,
                bottom + 20.0,
                "middle",
                SOFT,
                &strength.to_string(),
            ));
    }
    let note = "strength (1: as trained); shaded: 95 % interval";
    picture.add(text(
        (left + right) / 2.0,
        bottom + 42.0,
        "middle",
        INK,
        note,
    ))
}

/// Least and largest of values, apart in any case.
fn span(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let [low, high] = values.fold([f64::MAX, f64::MIN], |[low, high], value| {
        [low.min(value), high.max(value)]
    });
    match high > low {
        true => [low, high],
        false => [low - 0.5, low + 0.5],
    }
}

fn text(x: f64, y: f64, anchor: &str, colour: &str, content: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor)
        .set("fill", colour)
}

#[cfg(test)]
mod tests {
    use super::picture;

    #[test]
    fn every_point_is_drawn_within_the_picture() {
        let points = [(1.5, 0.4, [0.3, 0.5]), (0.0, 0.2, [0.1, 0.3])];
        let drawn = picture("exact", &points).to_string();
        assert_eq!(drawn.matches("<circle").count(), 2);
        let document = roxmltree::Document::parse(&drawn).expect("XML");
        let texts = document.descendants().filter_map(|node| node.text());
        let texts: Vec<&str> = texts.map(str::trim).collect();
        assert!(texts.contains(&"1.5") && texts.contains(&"0"), "{texts:?}");
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        let one = picture("exact", &[(1.0, 0.5, [0.5, 0.5])]).to_string();
        assert!(!one.contains("NaN") && !one.contains("inf"), "{one}");
    }
}
