//! Whether this processor can run llama.cpp as it was compiled.
//!
//! A program for other machines is compiled for processors with AVX2. On an older one it would
//! end in an illegal instruction, somewhere in a matrix product; this says so beforehand.

/// The processor lacks what this build needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor has no AVX2, FMA, F16C and BMI2, which this build of llama.cpp needs: build \
     llama-jola from source on this machine (`make build`), which fits it to the processor"
)]
pub struct TooOld;

/// To be called before anything of llama.cpp runs.
///
/// # Errors
/// [`TooOld`].
pub fn check() -> Result<(), TooOld> {
    #[cfg(all(compiled_for_avx2, target_arch = "x86_64"))]
    {
        let there = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi2");
        if !there {
            return Err(TooOld);
        }
    }
    Ok(())
}
