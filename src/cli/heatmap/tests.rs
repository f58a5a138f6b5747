use std::collections::BTreeMap;

use jola_edit::gguf::Metadata;
use jola_edit::sidecar::{HeadCount, HeadVectors, LayerEdit};
use roxmltree::{Document, Node};

use super::*;

/// An edit of some heads of a model of this shape; the vectors are two values wide.
fn edit(heads: &[u32]) -> Sidecar {
    let vectors = |heads: Vec<u32>, strength: f32| HeadVectors {
        values: heads.iter().flat_map(|h| [strength, *h as f32]).collect(),
        heads,
    };
    let mut layers = BTreeMap::new();
    for (layer, &count) in heads.iter().enumerate() {
        let chosen = |seed: usize| -> Vec<u32> {
            let chosen = |head: &u32| (*head as usize * 7 + layer * seed).is_multiple_of(5);
            (0..count).filter(chosen).collect()
        };
        let half = |seed| Some(vectors(chosen(seed), layer as f32)).filter(|v| !v.heads.is_empty());
        let edit = LayerEdit {
            mul: half(3),
            add: half(4),
        };
        if edit != LayerEdit::default() {
            layers.insert(layer as u32, edit);
        }
    }
    Sidecar {
        architecture: "llama".to_owned(),
        name: "a <test> & more".to_owned(),
        base_model_name: String::new(),
        block_count: heads.len() as u32,
        head_count: HeadCount::PerLayer(heads.to_vec()),
        head_dim: 2,
        method: "jola".to_owned(),
        base_sha256: None,
        train: Metadata::new(),
        layers,
        warnings: Vec::new(),
    }
}

fn draw(sidecar: &Sidecar) -> String {
    svg(sidecar, &sidecar.stats())
}

fn number(node: &Node, name: &str) -> f64 {
    let value = node.ancestors().find_map(|node| node.attribute(name));
    value
        .unwrap_or_else(|| panic!("no {name}"))
        .parse()
        .unwrap()
}

/// A text without the line breaks that the writer puts around it.
fn words<'a>(node: &Node<'a, '_>) -> &'a str {
    node.text().unwrap_or_default().trim()
}

/// Left, top, right and bottom of a text.
fn bounds(node: &Node) -> [f64; 4] {
    let size = number(node, "font-size");
    let (x, y) = (number(node, "x"), number(node, "y"));
    let width = text_width(words(node), size as usize) as f64;
    let start = match node.attribute("text-anchor") {
        Some("middle") => -width / 2.0,
        Some("end") => -width,
        _ => 0.0,
    };
    if node.has_attribute("transform") {
        return [x - size, y - width / 2.0, x + size / 3.0, y + width / 2.0];
    }
    [x + start, y - 0.8 * size, x + start + width, y + 0.2 * size]
}

/// Asserts that all texts lie in the picture and none on another.
fn check_texts(svg: &str) {
    let document = Document::parse(svg).unwrap();
    let (width, height) = (
        number(&document.root_element(), "width"),
        number(&document.root_element(), "height"),
    );
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    let texts: Vec<Node> = texts.collect();
    for (index, node) in texts.iter().enumerate() {
        let [left, top, right, bottom] = bounds(node);
        let inside = left >= 0.0 && top >= 0.0 && right <= width && bottom <= height;
        assert!(inside, "{:?} lies outside", node.text());
        for other in &texts[..index] {
            let over = bounds(other);
            let apart = left >= over[2] || over[0] >= right || top >= over[3] || over[1] >= bottom;
            assert!(apart, "{:?} lies on {:?}", node.text(), other.text());
        }
    }
}

#[test]
fn texts_have_room_at_any_size_of_model() {
    for (layers, heads) in [
        (1, 1),
        (2, 4),
        (28, 12),
        (30, 9),
        (24, 14),
        (80, 64),
        (126, 128),
    ] {
        let mut sidecar = edit(&vec![heads; layers]);
        check_texts(&draw(&sidecar));
        sidecar.name = "A-Rather-Long-Name-of-a-Model-".repeat(8);
        let svg = draw(&sidecar);
        check_texts(&svg);
        assert!(svg.contains('…'));
    }
}

#[test]
fn every_head_has_a_cell_and_every_vector_one_with_its_place_and_norm() {
    let sidecar = edit(&[4, 0, 6]);
    let stats = sidecar.stats();
    let svg = draw(&sidecar);
    check_texts(&svg);
    let document = Document::parse(&svg).unwrap();
    let hints = document
        .descendants()
        .filter(|node| node.has_tag_name("title"));
    let hints: Vec<&str> = hints.map(|node| words(&node)).collect();
    let (closed, open): (Vec<&str>, Vec<&str>) =
        hints.iter().partition(|hint| hint.ends_with("closed"));
    assert_eq!(open.len(), stats.open_mul + stats.open_add);
    assert_eq!(closed.len(), 2 * (4 + 6));
    assert!(hints.contains(&"layer 2, head 5: closed"), "{hints:?}");
    assert!(hints.contains(&"layer 2, head 2: 2.8284"), "{hints:?}");
}

#[test]
fn one_half_or_nothing_or_zeros_are_drawn_too() {
    let mut sidecar = edit(&[3, 3]);
    sidecar
        .layers
        .values_mut()
        .for_each(|layer| layer.add = None);
    let svg = draw(&sidecar);
    check_texts(&svg);
    assert_eq!(svg.matches("no head has one").count(), 1);
    for layer in sidecar.layers.values_mut() {
        layer.mul.iter_mut().for_each(|half| half.values.fill(0.0));
    }
    let svg = draw(&sidecar);
    check_texts(&svg);
    assert!(!svg.contains("NaN"));
    sidecar.layers.clear();
    let svg = draw(&sidecar);
    assert_eq!(svg.matches("no head has one").count(), 2);
    check_texts(&draw(&edit(&[])));
}

#[test]
fn names_are_made_fit_for_xml() {
    let mut sidecar = edit(&[1]);
    assert!(draw(&sidecar).contains("a &lt;test&gt; &amp; more"));
    sidecar.name = "a\u{0}\u{1b}\nb\u{ffff}".to_owned();
    let svg = draw(&sidecar);
    check_texts(&svg);
    assert!(svg.contains("\nab\n"));
}
