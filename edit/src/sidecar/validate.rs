//! The rules about values, the same for sidecars in files and in memory.

use super::{keys, HeadCount, HeadVectors, Operation, Sidecar, SidecarErrorKind};
use super::{MAX_BLOCK_COUNT, MAX_MODEL_LEN, MAX_ROW_LEN};

impl Sidecar {
    /// Checks every rule of the format that a value in memory can break.
    ///
    /// # Errors
    /// The first broken rule, as the reader would report it for a file.
    pub fn validate(&self) -> Result<(), SidecarErrorKind> {
        self.check_header()?;
        for (&layer, edit) in &self.layers {
            let head_count = self.check_layer(layer.into())?;
            if edit.mul.is_none() && edit.add.is_none() {
                return Err(SidecarErrorKind::EmptyLayer { layer });
            }
            for (operation, vectors) in edit.operations() {
                self.check_vectors(layer, operation, vectors, head_count)?;
            }
        }
        Ok(())
    }

    /// The rules about everything but the layers.
    pub(super) fn check_header(&self) -> Result<(), SidecarErrorKind> {
        check_positive(keys::BLOCK_COUNT, self.block_count)?;
        if self.block_count > MAX_BLOCK_COUNT {
            return Err(SidecarErrorKind::TooManyLayers {
                found: self.block_count,
                limit: MAX_BLOCK_COUNT,
            });
        }
        if let HeadCount::PerLayer(counts) = &self.head_count {
            if counts.len() != self.block_count as usize {
                return Err(SidecarErrorKind::HeadCountLength {
                    expected: self.block_count,
                    found: counts.len() as u64,
                });
            }
        }
        let (head_count, head_dim) = (self.head_count.max(), self.head_dim);
        check_positive(keys::HEAD_COUNT, head_count)?;
        check_positive(keys::HEAD_DIM, head_dim)?;
        if u64::from(head_count) * u64::from(head_dim) > MAX_ROW_LEN {
            return Err(SidecarErrorKind::RowTooLong {
                head_count,
                head_dim,
                limit: MAX_ROW_LEN,
            });
        }
        let heads = self.head_count.total(self.block_count);
        if heads.saturating_mul(head_dim.into()) > MAX_MODEL_LEN {
            return Err(SidecarErrorKind::ModelTooLarge {
                heads,
                head_dim,
                limit: MAX_MODEL_LEN,
            });
        }
        match &self.base_sha256 {
            Some(digest) if !is_sha256(digest) => Err(SidecarErrorKind::Sha256 {
                found: digest.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The heads of a layer that the base model has.
    pub(super) fn check_layer(&self, layer: u64) -> Result<u32, SidecarErrorKind> {
        let number = u32::try_from(layer).ok();
        number
            .filter(|&layer| layer < self.block_count)
            .and_then(|layer| self.head_count.at(layer))
            .ok_or(SidecarErrorKind::LayerOutOfRange {
                layer,
                block_count: self.block_count,
            })
    }

    fn check_vectors(
        &self,
        layer: u32,
        operation: Operation,
        vectors: &HeadVectors,
        head_count: u32,
    ) -> Result<(), SidecarErrorKind> {
        let HeadVectors { heads, values } = vectors;
        let k = heads.len() as u64;
        if k == 0 {
            return Err(SidecarErrorKind::NoHeads {
                tensor: operation.heads_name(layer),
            });
        }
        if values.len() as u64 != k * u64::from(self.head_dim) {
            return Err(SidecarErrorKind::Shape {
                tensor: operation.vectors_name(layer),
                expected: vec![self.head_dim.into(), k],
                found: vec![values.len() as u64],
            });
        }
        check_heads(heads, head_count, || operation.heads_name(layer))?;
        let mut values = values.iter().enumerate();
        match values.find(|(_, value)| !value.is_finite()) {
            Some((index, &found)) => Err(SidecarErrorKind::NotFinite {
                tensor: operation.vectors_name(layer),
                index,
                found,
            }),
            None => Ok(()),
        }
    }
}

fn check_heads(
    heads: &[u32],
    head_count: u32,
    tensor: impl Fn() -> String,
) -> Result<(), SidecarErrorKind> {
    if let Some(&head) = heads.iter().find(|&&head| head >= head_count) {
        return Err(SidecarErrorKind::HeadOutOfRange {
            tensor: tensor(),
            head: head.into(),
            head_count,
        });
    }
    for (&previous, &found) in heads.iter().zip(heads.iter().skip(1)) {
        if found == previous {
            return Err(SidecarErrorKind::DuplicateHead {
                tensor: tensor(),
                head: found,
            });
        }
        if found < previous {
            return Err(SidecarErrorKind::HeadOrder {
                tensor: tensor(),
                previous,
                found,
            });
        }
    }
    Ok(())
}

fn check_positive(key: &'static str, found: u32) -> Result<(), SidecarErrorKind> {
    match found {
        0 => Err(SidecarErrorKind::Zero { key }),
        _ => Ok(()),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
