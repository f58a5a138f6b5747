//! Which products of a graph concern a layer's edit, told by the names that llama.cpp gives
//! its tensors.
//!
//! llama.cpp names a layer's head outputs `kqv_out-<layer>` and multiplies them with the
//! weight `blk.<layer>.attn_output.weight`, and with that weight's `.lora_a` when a LoRA is
//! loaded. When the cached values are quantised it stores them rotated and turns the head
//! outputs back in between: a reshaped `kqv_out-<layer>` is multiplied with `attn_inp_v_rot`
//! (in newer versions `cache_…v_rot_l<layer>`, and in both `k` for `v` where keys are taken for
//! values), and the reshaped product is what meets the weight. That inner product is given a name
//! of ours, so that the outer one can be told.

/// What a product `a × b` is to an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Head outputs with the output projection: `b` is to be edited.
    Projection(u32),
    /// Head outputs with a LoRA of the output projection: `b` was edited before.
    Lora(u32),
    /// Head outputs of another number with a layer's output projection: the model runs that
    /// layer several times.
    OtherRun(u32),
    /// Head outputs turned back after the cache's rotation: the product is to be named
    /// [`unrotated`].
    Rotation(u32),
}

const HEAD_OUTPUTS: &str = "kqv_out-";
const OUTPUT_PROJECTION: &str = "attn_output.weight";
const UNROTATED: &str = "jola_unrotated-";
const RESHAPED: [&str; 2] = [" (reshaped)", " (cont)"];

/// The name of the head outputs of `layer` after they were turned back.
pub fn unrotated(layer: u32) -> String {
    format!("{UNROTATED}{layer}")
}

/// Whether a tensor of this name may be the second operand of a product that matters: a
/// cheap test for all the others.
pub fn may_matter(b: &[u8]) -> bool {
    b.starts_with(HEAD_OUTPUTS.as_bytes()) || b.starts_with(UNROTATED.as_bytes())
}

/// The layer of a tensor named `kqv_out-<layer>` exactly.
pub fn head_outputs(name: &str) -> Option<u32> {
    name.strip_prefix(HEAD_OUTPUTS)?.parse().ok()
}

/// The layer of a tensor that is a reshaped `kqv_out-<layer>`.
pub fn reshaped_head_outputs(name: &str) -> Option<u32> {
    head_outputs(strip_reshaped(name)?)
}

fn strip_reshaped(name: &str) -> Option<&str> {
    RESHAPED.iter().find_map(|end| name.strip_suffix(end))
}

/// Whether this is the name of a layer's output projection, whatever llama.cpp calls the head
/// outputs.
pub fn is_output_projection(a: &str) -> bool {
    let weight = a.strip_prefix("blk.").and_then(|name| name.split_once('.'));
    weight.is_some_and(|(_, what)| what == OUTPUT_PROJECTION)
}

/// Whether a tensor turns head outputs back: an input of the graph, or in newer versions a tensor
/// of the layer's cache.
fn is_rotation(a: &str) -> bool {
    let of_graph = a.starts_with("attn_inp_") && a.ends_with("_rot");
    of_graph || (a.starts_with("cache_") && a.contains("_rot_l"))
}

/// What the product of tensors named `a` and `b` is to an edit, if anything.
pub fn product(a: &str, b: &str) -> Option<Product> {
    if is_rotation(a) {
        return reshaped_head_outputs(b).map(Product::Rotation);
    }
    let layer = head_outputs(b).or_else(|| {
        let turned = strip_reshaped(b)?.strip_prefix(UNROTATED)?;
        turned.parse().ok()
    })?;
    let weight = a.strip_prefix("blk.")?;
    let (of_layer, what) = weight.split_once('.')?;
    let of_layer: u32 = of_layer.parse().ok()?;
    match what {
        OUTPUT_PROJECTION if of_layer != layer => Some(Product::OtherRun(of_layer)),
        OUTPUT_PROJECTION => Some(Product::Projection(layer)),
        "attn_output.weight.lora_a" if of_layer == layer => Some(Product::Lora(layer)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_head_outputs_are_told_by_name() {
        let of = product;
        assert_eq!(
            of("blk.12.attn_output.weight", "kqv_out-12"),
            Some(Product::Projection(12))
        );
        assert_eq!(
            of("blk.0.attn_output.weight.lora_a", "kqv_out-0"),
            Some(Product::Lora(0))
        );
        // The last where keys are taken for values.
        for rotation in ["attn_inp_v_rot", "cache_v_rot_l3", "cache_k_rot_l3"] {
            assert_eq!(
                of(rotation, "kqv_out-3 (reshaped)"),
                Some(Product::Rotation(3))
            );
        }
        assert_eq!(
            of("blk.1.attn_output.weight", "kqv_out-2"),
            Some(Product::OtherRun(1))
        );
        let turned = unrotated(3) + " (reshaped)";
        assert_eq!(
            of("blk.3.attn_output.weight", &turned),
            Some(Product::Projection(3))
        );
    }

    #[test]
    fn other_products_do_not_matter() {
        for (a, b) in [
            ("blk.1.attn_output.weight.lora_a", "kqv_out-2"),
            ("blk.1.attn_output.weight", "kqv_out-1 (reshaped)"),
            ("blk.1.attn_output.weight.lora_b", "kqv_out-1"),
            ("blk.1.ffn_up.weight", "kqv_out-1"),
            ("v.blk.1.attn_out.weight", "kqv_out-1"),
            // T5, whose layers' numbers stand for three attentions each.
            ("enc.blk.1.attn_o.weight", "kqv_out-1"),
            ("dec.blk.1.attn_o.weight", "kqv_out-1"),
            ("dec.blk.1.cross_attn_o.weight", "kqv_out-1"),
            ("attn_inp_v_rot", "Vcur-1 (reshaped)"),
            ("attn_inp_v_rot", "kqv_out-1"),
            ("cache_k_rot_l1", "Kcur-1 (reshaped)"),
            // The fold of a weight, which is refused before.
            ("prism.hadamard.64", "kqv_out-1 (reshaped)"),
            ("blk.1.attn_output.weight", "kqv_out-"),
            ("", ""),
        ] {
            assert_eq!(product(a, b), None, "{a} × {b}");
        }
    }

    #[test]
    fn output_projections_are_told_by_name() {
        assert!(is_output_projection("blk.12.attn_output.weight"));
        assert!(!is_output_projection("blk.12.attn_output.weight.lora_a"));
        assert!(!is_output_projection("attn_output.weight"));
    }

    #[test]
    fn the_cheap_test_passes_whatever_matters() {
        assert!(may_matter(b"kqv_out-1 (reshaped)"));
        assert!(may_matter(unrotated(1).as_bytes()));
        assert!(!may_matter(b"attn_norm-1"));
        assert!(!may_matter(b""));
    }
}
