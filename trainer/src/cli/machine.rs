//! Where a run computes and in which number format.

use tch::Device;

use crate::model::Precision;
use crate::{gpu, Error};

/// What a run computes on, and how.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    pub device: Device,
    pub precision: Precision,
    pub threads: usize,
}

/// What `--device` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that libtorch sees, else the CPU.
    Auto,
    /// The CPU, even where there is a GPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

/// What `--dtype` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DtypeChoice {
    /// bf16 where it is fast, else f32.
    Auto,
    /// float32 weights and activations.
    F32,
    /// bfloat16 weights and activations; edits, norms and loss stay float32.
    Bf16,
    /// float16 in the place of bfloat16: for GPUs older than Ampere.
    F16,
}

/// What `--weights` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsChoice {
    /// dense where they fit into memory, else quantised.
    Auto,
    /// In the format of --dtype: two or four bytes a number.
    Dense,
    /// As in the GGUF, dequantised layer by layer in each pass: less memory, more time.
    Quantised,
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(DeviceChoice::Auto),
            None if text == "cpu" => Ok(DeviceChoice::Cpu),
            None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
            Some(("cuda", index)) if index.parse::<usize>().is_ok() => {
                Ok(DeviceChoice::Cuda(index.parse().expect("just parsed")))
            }
            _ => Err("expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl DeviceChoice {
    /// The device to use.
    ///
    /// # Errors
    /// [`Error::NoCuda`] for a GPU that libtorch does not see.
    pub fn resolve(self) -> Result<Device, Error> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Auto if gpu::count() == 0 => {
                if let Some(why) = gpu::unseen() {
                    eprintln!("warning: training on the CPU: {why}");
                }
                Ok(Device::Cpu)
            }
            DeviceChoice::Auto => Ok(Device::Cuda(0)),
            DeviceChoice::Cuda(index) if index < gpu::count() => Ok(Device::Cuda(index)),
            DeviceChoice::Cuda(index) => Err(Error::NoCuda {
                index,
                count: gpu::count(),
                why: gpu::unseen(),
            }),
        }
    }
}

impl DtypeChoice {
    /// The number formats to use on `device`.
    pub fn resolve(self, device: Device) -> Precision {
        let precision = match self {
            DtypeChoice::F32 => Precision::F32,
            DtypeChoice::Bf16 => Precision::BF16,
            DtypeChoice::F16 => Precision::F16,
            DtypeChoice::Auto if device.is_cuda() || cpu_has_fast_bf16() => Precision::BF16,
            DtypeChoice::Auto => Precision::F32,
        };
        match device.is_cuda() {
            true => precision.fused(),
            false => precision,
        }
    }
}

/// The name of a device on the command line.
pub(super) fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Whether the CPU multiplies bfloat16 matrices in hardware.
fn cpu_has_fast_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("bf16")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// Sets the number of CPU threads (`None`: one per core that this process may use) and
/// returns it. Results are the same bit for bit only for the same number.
pub fn set_threads(threads: Option<usize>) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = threads.unwrap_or_else(available);
    tch::set_num_threads(threads as i32);
    threads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        let text = DeviceChoice::Cuda(99).resolve().unwrap_err().to_string();
        assert!(text.contains("cuda:99"), "{text}");
        assert_eq!(DeviceChoice::Cpu.resolve().unwrap(), Device::Cpu);
    }

    #[test]
    fn asked_formats_are_kept() {
        assert_eq!(DtypeChoice::F32.resolve(Device::Cpu), Precision::F32);
        assert_eq!(DtypeChoice::Bf16.resolve(Device::Cpu), Precision::BF16);
        let gpu = Device::Cuda(0);
        assert_eq!(DtypeChoice::Auto.resolve(gpu), Precision::BF16.fused());
    }
}
