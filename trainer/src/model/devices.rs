//! Where a model's layers lie: on one device, or one part after the other on several.

use tch::Device;

/// Devices in the order of the layers that they hold, each with what it can hold compared with
/// the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(Vec<(Device, u64)>);

impl From<Device> for Devices {
    fn from(device: Device) -> Devices {
        Devices(vec![(device, 1)])
    }
}

impl Devices {
    /// These devices, each with its share, such as the bytes that it has free.
    ///
    /// # Panics
    /// Without any device.
    pub fn sharing(devices: Vec<(Device, u64)>) -> Devices {
        assert!(!devices.is_empty(), "a model lies somewhere");
        Devices(devices)
    }

    /// The one that holds the token embeddings and the trained numbers.
    pub fn first(&self) -> Device {
        self.0[0].0
    }

    /// The one that holds the output matrix, where it is not the token embeddings.
    pub fn last(&self) -> Device {
        self.0[self.0.len() - 1].0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Device> + '_ {
        self.0.iter().map(|(device, _)| *device)
    }

    /// The device of each of `n_layer` layers: as many consecutive ones as its share.
    pub fn of_layers(&self, n_layer: usize) -> Vec<Device> {
        let all: u64 = self.0.iter().map(|(_, share)| (*share).max(1)).sum();
        let (mut layers, mut before) = (Vec::with_capacity(n_layer), 0);
        for (device, share) in &self.0 {
            before += (*share).max(1);
            let end = u128::from(before) * n_layer as u128 / u128::from(all);
            layers.resize(end as usize, *device);
        }
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_split_by_shares() {
        let [a, b] = [0, 1].map(Device::Cuda);
        let split = |shares: [u64; 2], n: usize| {
            let devices = Devices::sharing(vec![(a, shares[0]), (b, shares[1])]);
            let layers = devices.of_layers(n);
            assert_eq!(layers.len(), n);
            layers.iter().filter(|device| **device == a).count()
        };
        assert_eq!(split([1, 1], 8), 4);
        assert_eq!(split([3 << 30, 1 << 30], 32), 24);
        assert_eq!(split([0, 1 << 40], 4), 0);
        assert_eq!(Devices::from(a).of_layers(3), [a; 3]);
    }
}
