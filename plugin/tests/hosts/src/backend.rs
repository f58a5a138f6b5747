//! Where a host computes.

/// Where the layers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The host's CPU library.
    Cpu,
    /// Vulkan on Mesa's software device.
    Vulkan,
    /// Another process, reached over the loopback interface.
    Rpc,
    /// Two other processes, each with half of the layers.
    TwoRpc,
    /// Another process with some of the layers, and the host's CPU library.
    RpcAndCpu,
}

impl Backend {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Vulkan => "Vulkan",
            Self::Rpc => "RPC",
            Self::TwoRpc => "2 × RPC",
            Self::RpcAndCpu => "RPC + CPU",
        }
    }

    /// Its devices, as llama.cpp calls them.
    pub fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => &[],
            Self::Vulkan => &["Vulkan0"],
            Self::Rpc | Self::RpcAndCpu => &["RPC0"],
            Self::TwoRpc => &["RPC0", "RPC1"],
        }
    }

    /// How many layers its devices get; the model has fewer than 99.
    pub fn layers(self) -> &'static str {
        match self {
            Self::RpcAndCpu => "13",
            _ => "99",
        }
    }
}
