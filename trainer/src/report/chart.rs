//! Curves over the steps of a run: axes with ticks that read well, phases, lines, a legend.
//!
//! All lengths are pixels. Texts are placed by an estimate of their width that a wide font
//! keeps to, as the viewer's font is not known.

use svg::node::element::{Circle, Group, Line, Path, Polyline, Rectangle, Text};
use svg::{Document, Node};

use crate::train::Phase;

/// Width of all pictures.
pub(crate) const WIDTH: f64 = 860.0;
/// Space at the left and right.
pub(crate) const MARGIN: f64 = 26.0;
/// Of text and of lines that matter.
pub(crate) const INK: &str = "#24292f";
/// Of names and numbers beside the axes.
pub(crate) const SOFT: &str = "#57606a";
const GRID: &str = "#d8dee4";
/// Of every other phase.
const BAND: &str = "#f3f5f7";
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";
/// Room for the numbers and the name of the vertical axis.
const LEFT: f64 = MARGIN + 56.0;
/// Room for the title, the legend and the phases' names above a chart.
const ABOVE: f64 = 96.0;
/// Room for the numbers and the name of the steps below a chart.
const BELOW: f64 = 52.0;
/// Decades that a logarithmic axis shows at most, below the largest value.
const DECADES: i32 = 4;
/// Points that a curve is drawn with at most, so that the picture of a long run stays small.
const POINTS: usize = 1500;

/// An empty picture on white ground of its own, as viewers with a dark page have none.
pub(crate) fn picture(height: f64) -> Document {
    let ground = Rectangle::new().set("width", WIDTH).set("height", height);
    Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", FONTS)
        .set("font-size", 12)
        .set("fill", INK)
        .add(ground.set("fill", "#ffffff").set("rx", 6))
}

/// A text that begins at `x`.
pub(crate) fn text(content: impl Into<String>, x: f64, baseline: f64) -> Text {
    Text::new(content)
        .set("x", pixel(x))
        .set("y", pixel(baseline))
}

/// A tenth of a pixel is exact enough, and short.
fn pixel(length: f64) -> f64 {
    (length * 10.0).round() / 10.0
}

/// Width that a text of 12 pixels takes at most.
fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 7.8
}

/// The vertical axis: its lowest and highest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// Equal differences are equally high.
    Linear(f64, f64),
    /// Equal ratios are equally high; both ends are positive.
    Log(f64, f64),
}

impl Scale {
    /// A linear axis from zero.
    pub(crate) fn from_zero(top: f64) -> Scale {
        let step = tick_step(top, 5);
        Scale::Linear(0.0, (top / step).ceil().max(1.0) * step)
    }

    /// A logarithmic axis for those of the values that have a logarithm, from tick to tick.
    /// Values that are far below the largest lie on its lower end, as zero does.
    pub(crate) fn log(values: impl Iterator<Item = f64>) -> Scale {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let ends = positive.fold(None, |ends, value| {
            let (low, high) = ends.unwrap_or((value, value));
            Some((value.min(low), value.max(high)))
        });
        let (low, high) = ends.unwrap_or((0.1, 1.0));
        let low = low.max(high * 10f64.powi(-DECADES)).max(f64::MIN_POSITIVE);
        let near = [low, high].map(|value| value.log10().floor() as i32);
        let ticks = || log_ticks(near[0] - 1, near[1] + 1, &[1, 2, 5]);
        // A hair's breadth aside, since powers of ten are not exact.
        let from = ticks()
            .map(|(value, _)| value)
            .filter(|v| *v <= low * 1.000_001);
        let to = ticks()
            .map(|(value, _)| value)
            .find(|v| *v >= high * 0.999_999);
        let (from, to) = (from.last().unwrap_or(low), to.unwrap_or(high));
        if from < to {
            Scale::Log(from, to)
        } else {
            Scale::Log(from / 2.0, to * 2.0)
        }
    }

    /// How high a value lies, from 0 to 1.
    fn share(self, value: f64) -> f64 {
        let share = match self {
            Scale::Linear(from, to) => (value - from) / (to - from),
            Scale::Log(from, _) if value <= from => 0.0,
            Scale::Log(from, to) => (value / from).ln() / (to / from).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Values that get a line and a number.
    fn ticks(self) -> Vec<(f64, String)> {
        match self {
            Scale::Linear(from, to) => {
                let step = tick_step(to - from, 5);
                let count = ((to - from) / step).round() as usize;
                let tick = |index| from + index as f64 * step;
                (0..=count)
                    .map(|i| (tick(i), tick(i).to_string()))
                    .collect()
            }
            Scale::Log(from, to) => {
                let decades = (to / from).log10();
                let digits: &[u32] = if decades > 3.0 { &[1] } else { &[1, 2, 5] };
                let ends = [from, to].map(|value| value.log10().floor() as i32);
                let ticks = log_ticks(ends[0], ends[1] + 1, digits);
                let inside = |value: f64| value > from * 0.999 && value < to * 1.001;
                ticks.filter(|(value, _)| inside(*value)).collect()
            }
        }
    }
}

/// Multiples of powers of ten, ascending, with their numbers.
fn log_ticks(from: i32, to: i32, digits: &[u32]) -> impl Iterator<Item = (f64, String)> + '_ {
    (from..=to).flat_map(move |power| {
        digits.iter().map(move |&digit| {
            let value = f64::from(digit) * 10f64.powi(power);
            let number = match power {
                -5..=-1 => format!("{value:.*}", -power as usize),
                0..=5 => format!("{value:.0}"),
                _ => format!("{digit}e{power}"),
            };
            (value, number)
        })
    })
}

/// 1, 2 or 5 times a power of ten, at least 1, that parts `range` into at most `most` parts.
fn tick_step(range: f64, most: usize) -> f64 {
    let steps = log_ticks(0, 18, &[1, 2, 5]).map(|(step, _)| step);
    let mut fitting = steps.filter(|step| range / step <= most as f64);
    fitting.next().unwrap_or(range)
}

/// Curves of a run: steps to the right, a value upwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chart {
    last_step: usize,
    scale: Scale,
    /// Height of the area between the axes.
    height: f64,
}

impl Chart {
    /// Of a run until `last_step`.
    pub(crate) fn new(last_step: usize, scale: Scale, height: f64) -> Chart {
        Chart {
            last_step: last_step.max(1),
            scale,
            height,
        }
    }

    /// Height with everything around the area.
    pub(crate) fn outer_height(&self) -> f64 {
        ABOVE + self.height + BELOW
    }

    fn x(&self, step: usize) -> f64 {
        let width = WIDTH - MARGIN - LEFT;
        pixel(LEFT + width * step as f64 / self.last_step as f64)
    }

    fn y(&self, value: f64) -> f64 {
        pixel(ABOVE + self.height * (1.0 - self.scale.share(value)))
    }

    /// Title, phases, axes. A phase begins before the step that it is given with.
    pub(crate) fn frame(&self, title: &str, axis: &str, phases: &[(usize, Phase)]) -> Group {
        let bottom = ABOVE + self.height;
        let heading = text(title, MARGIN, 32.0).set("font-size", 16);
        let mut frame = Group::new().add(heading.set("font-weight", "bold"));
        let starts: Vec<f64> = phases.iter().map(|(step, _)| self.x(step - 1)).collect();
        for (index, start) in starts.iter().enumerate().skip(1).step_by(2) {
            let end = starts.get(index + 1).copied().unwrap_or(WIDTH - MARGIN);
            let band = Rectangle::new().set("x", *start).set("y", ABOVE);
            let band = band.set("width", pixel(end - start)).set("fill", BAND);
            frame.append(band.set("height", self.height));
        }
        let names: Vec<&str> = phases.iter().map(|(_, phase)| phase.name()).collect();
        for (name, x) in names.iter().zip(apart(&starts, &names)) {
            frame.append(text(*name, x, ABOVE - 7.0).set("fill", SOFT));
        }
        for start in starts.iter().skip(1) {
            let line = line([*start, ABOVE - 18.0], [*start, bottom]);
            frame.append(line.set("stroke-dasharray", "3 3").set("stroke", "#8c959f"));
        }
        let mut axes = Group::new().set("font-size", 11).set("fill", SOFT);
        for (value, number) in self.scale.ticks() {
            let y = self.y(value);
            axes.append(line([LEFT, y], [WIDTH - MARGIN, y]));
            axes.append(text(number, LEFT - 8.0, y + 4.0).set("text-anchor", "end"));
        }
        let step = tick_step(self.last_step as f64, 10) as usize;
        for step in (0..=self.last_step).step_by(step.max(1)) {
            let x = self.x(step);
            axes.append(line([x, bottom], [x, bottom + 4.0]));
            axes.append(text(step.to_string(), x, bottom + 17.0).set("text-anchor", "middle"));
        }
        let base = line([LEFT, bottom], [WIDTH - MARGIN, bottom]);
        axes.append(base.set("stroke", SOFT));
        let name = text("step", (LEFT + WIDTH - MARGIN) / 2.0, bottom + 36.0);
        axes.append(name.set("text-anchor", "middle"));
        let (x, y) = (MARGIN + 8.0, ABOVE + self.height / 2.0);
        let name = text(axis, x, y).set("text-anchor", "middle");
        axes.append(name.set("transform", format!("rotate(-90 {x} {y})")));
        frame.append(axes);
        frame
    }

    /// A line through points, fewer of them where there are very many.
    pub(crate) fn curve(&self, points: &[(usize, f64)], colour: &str) -> Polyline {
        let thinned = thinned(points).map(|(step, value)| {
            let (x, y) = (self.x(step), self.y(value));
            format!("{x},{y}")
        });
        let points: Vec<String> = thinned.collect();
        let curve = Polyline::new().set("points", points.join(" "));
        let curve = curve.set("fill", "none").set("stroke", colour);
        curve.set("stroke-width", 2).set("stroke-linejoin", "round")
    }

    /// A small dot for each point, fewer of them where there are very many.
    pub(crate) fn dots(&self, points: &[(usize, f64)], colour: &str) -> Path {
        let places = thinned(points).map(|(step, value)| (self.x(step), self.y(value)));
        dots(places, colour)
    }

    /// A point that stands out; `ringed` even more.
    pub(crate) fn point(&self, (step, value): (usize, f64), colour: &str, ringed: bool) -> Group {
        point([self.x(step), self.y(value)], colour, ringed)
    }
}

/// At most [`POINTS`] of the points, the last among them.
fn thinned(points: &[(usize, f64)]) -> impl Iterator<Item = (usize, f64)> + '_ {
    let stride = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.iter().enumerate();
    let kept = kept.filter(move |(index, _)| index % stride == 0 || *index == last);
    kept.map(|(_, point)| *point)
}

fn dots(places: impl Iterator<Item = (f64, f64)>, colour: &str) -> Path {
    let dots: String = places.map(|(x, y)| format!("M{x} {y}h0")).collect();
    let dots = Path::new().set("d", dots).set("stroke", colour);
    dots.set("stroke-width", 3).set("stroke-linecap", "round")
}

fn point([x, y]: [f64; 2], colour: &str, ringed: bool) -> Group {
    let circle = |radius: f64| Circle::new().set("cx", x).set("cy", y).set("r", radius);
    let point = Group::new().add(circle(4.0).set("fill", colour).set("stroke", "#ffffff"));
    if !ringed {
        return point;
    }
    let ring = circle(7.5).set("fill", "none").set("stroke", colour);
    point.add(ring.set("stroke-width", 1.5))
}

fn line(from: [f64; 2], to: [f64; 2]) -> Line {
    let line = Line::new().set("x1", from[0]).set("y1", from[1]);
    line.set("x2", to[0]).set("y2", to[1]).set("stroke", GRID)
}

/// Where names begin that belong at `starts` but must not lie on each other.
fn apart(starts: &[f64], names: &[&str]) -> Vec<f64> {
    let mut places = Vec::with_capacity(starts.len());
    let mut free = LEFT;
    for (start, name) in starts.iter().zip(names) {
        let place = (start + 6.0).max(free);
        places.push(place);
        free = place + text_width(name) + 8.0;
    }
    let mut end = WIDTH - MARGIN;
    for (place, name) in places.iter_mut().zip(names).rev() {
        *place = place.min(end - text_width(name));
        end = *place - 8.0;
    }
    places
}

/// How a legend shows what it names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// A [`Chart::curve`].
    Curve,
    /// One of [`Chart::dots`].
    Dot,
    /// A [`Chart::point`].
    Point,
    /// A ringed one.
    Ring,
}

/// Marks with their colours and names, in the line below a chart's title.
pub(crate) fn legend(entries: &[(Mark, &str, &str)]) -> Group {
    let (mut x, y) = (MARGIN, 52.0);
    let mut legend = Group::new();
    for (mark, colour, name) in entries {
        let centre = [x + 9.0, y];
        match mark {
            Mark::Curve => {
                let line = line([x, y], [x + 18.0, y]).set("stroke", *colour);
                legend.append(line.set("stroke-width", 2));
            }
            Mark::Dot => legend.append(dots(std::iter::once((x + 9.0, y)), colour)),
            Mark::Point => legend.append(point(centre, colour, false)),
            Mark::Ring => legend.append(point(centre, colour, true)),
        }
        legend.append(text(*name, x + 24.0, y + 4.0));
        x += 24.0 + text_width(name) + 16.0;
    }
    legend
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_axis_reaches_from_tick_to_tick() {
        let log = |values: &[f64]| Scale::log(values.iter().copied());
        let near = |scale: Scale, ends: [f64; 2]| match scale {
            Scale::Log(from, to) => {
                assert!((from / ends[0] - 1.0).abs() < 1e-9, "{from}");
                assert!((to / ends[1] - 1.0).abs() < 1e-9, "{to}");
            }
            Scale::Linear(..) => panic!("not logarithmic"),
        };
        near(log(&[13.3, 0.07]), [0.05, 20.0]);
        near(log(&[1.0, 0.1]), [0.1, 1.0]);
        near(log(&[1.0]), [0.5, 2.0]);
        near(log(&[3.0, 0.0, f64::NAN, f64::INFINITY, -1.0]), [2.0, 5.0]);
        near(log(&[]), [0.1, 1.0]);
        near(log(&[0.0]), [0.1, 1.0]);
        // One row that is known by heart does not press the rest together.
        near(log(&[10.0, 1e-9]), [1e-3, 10.0]);
        let scale = log(&[10.0, 0.1]);
        let shares = [0.0, -1.0, 0.1, 1.0, 10.0, 99.0].map(|value| scale.share(value));
        let expected = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0];
        let close = shares
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close, "{shares:?}");
    }

    #[test]
    fn ticks_read_well() {
        let numbers = |scale: Scale| -> Vec<String> {
            scale
                .ticks()
                .into_iter()
                .map(|(_, number)| number)
                .collect()
        };
        let log = Scale::log([0.06, 1.5].into_iter());
        assert_eq!(numbers(log), ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        let deep = Scale::log([0.002, 12.0].into_iter());
        assert_eq!(numbers(deep), ["0.01", "0.1", "1", "10"]);
        let counts = Scale::from_zero(270.0);
        assert_eq!(numbers(counts), ["0", "100", "200", "300"]);
        assert_eq!(numbers(Scale::from_zero(0.0)), ["0", "1"]);
        assert_eq!(numbers(Scale::from_zero(7.0)), ["0", "2", "4", "6", "8"]);
        assert_eq!(tick_step(153.0, 10), 20.0);
    }

    #[test]
    fn names_of_short_phases_do_not_lie_on_each_other() {
        let names = ["learn", "prune", "polish"];
        let end = WIDTH - MARGIN;
        for starts in [
            [LEFT; 3],
            [LEFT, 300.0, 302.0],
            [end - 3.0, end - 2.0, end - 1.0],
        ] {
            let places = apart(&starts, &names);
            for index in 0..3 {
                let next = places.get(index + 1).copied().unwrap_or(end);
                assert!(
                    places[index] + text_width(names[index]) <= next,
                    "{places:?}"
                );
            }
        }
    }

    #[test]
    fn long_runs_are_drawn_with_few_points() {
        let points: Vec<(usize, f64)> = (0..100_000).map(|step| (step, 1.0)).collect();
        let kept: Vec<_> = thinned(&points).collect();
        assert!(kept.len() <= POINTS + 1);
        assert_eq!(kept.last(), points.last());
        assert_eq!(thinned(&points[..7]).count(), 7);
        assert_eq!(thinned(&[]).count(), 0);
    }
}
