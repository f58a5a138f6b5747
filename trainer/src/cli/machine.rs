//! Where a run computes and in which number format.

use std::collections::BTreeSet;

use tch::Device;

use crate::gpu;
use crate::model::{Devices, Precision};
use crate::Error;

/// What a run computes on, and how.
#[derive(Clone)]
pub(super) struct Machine {
    pub devices: Devices,
    pub precision: Precision,
    pub threads: usize,
}

/// What `--device` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that libtorch sees, else the CPU.
    Auto,
    /// The CPU, even where there is a GPU.
    Cpu,
    /// The GPUs of these numbers, which share the layers.
    Cuda(Vec<usize>),
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
        let index = |name: &str| match name.strip_prefix("cuda")? {
            "" => Some(0),
            rest => rest.strip_prefix(':')?.parse().ok(),
        };
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            names => {
                let indices: Option<Vec<usize>> = names.split(',').map(index).collect();
                let wrong = || "expected auto, cpu, cuda, cuda:N or cuda:N,cuda:M".to_owned();
                let indices = indices.ok_or_else(wrong)?;
                match indices.iter().collect::<BTreeSet<_>>().len() == indices.len() {
                    true => Ok(DeviceChoice::Cuda(indices)),
                    false => Err("one GPU is named twice".to_owned()),
                }
            }
        }
    }
}

impl DeviceChoice {
    /// The devices to use.
    ///
    /// # Errors
    /// [`Error::NoCuda`] for a GPU that libtorch does not see.
    pub fn resolve(&self) -> Result<Devices, Error> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu.into()),
            DeviceChoice::Auto if gpu::count() == 0 => {
                if let Some(why) = gpu::unseen() {
                    eprintln!("warning: training on the CPU: {why}");
                }
                Ok(Device::Cpu.into())
            }
            DeviceChoice::Auto => Ok(Device::Cuda(0).into()),
            DeviceChoice::Cuda(indices) => {
                let count = gpu::count();
                if let Some(&index) = indices.iter().find(|&&index| index >= count) {
                    let why = gpu::unseen();
                    return Err(Error::NoCuda { index, count, why });
                }
                let share = |&index: &usize| {
                    let free = gpu::free_memory(index).unwrap_or(1);
                    (Device::Cuda(index), free)
                };
                Ok(Devices::sharing(indices.iter().map(share).collect()))
            }
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

/// The names of devices on the command line.
pub(super) fn device_names(devices: &Devices) -> String {
    let name = |device| match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    };
    devices.iter().map(name).collect::<Vec<_>>().join(",")
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
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(vec![0])));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(vec![3])));
        assert_eq!("cuda:1,cuda:0".parse(), Ok(DeviceChoice::Cuda(vec![1, 0])));
        let wrong = [
            "",
            "gpu",
            "cuda:",
            "cuda:x",
            "cpu:0",
            "cuda:0,",
            "cuda:0,cpu",
            "cuda,cuda:0",
        ];
        for wrong in wrong {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        let text = DeviceChoice::Cuda(vec![99])
            .resolve()
            .unwrap_err()
            .to_string();
        assert!(text.contains("cuda:99"), "{text}");
        assert_eq!(DeviceChoice::Cpu.resolve().unwrap(), Device::Cpu.into());
    }

    #[test]
    fn asked_formats_are_kept() {
        assert_eq!(DtypeChoice::F32.resolve(Device::Cpu), Precision::F32);
        assert_eq!(DtypeChoice::Bf16.resolve(Device::Cpu), Precision::BF16);
        let gpu = Device::Cuda(0);
        assert_eq!(DtypeChoice::Auto.resolve(gpu), Precision::BF16.fused());
    }
}
