//! NumPy's array files.
//!
//! Own code, as the format is a header of three fields; the crate for it (npyz) brings a parser
//! generator and a native stack switcher for them.

use super::array::{elements, floats, Array, MAX_VALUES};
use super::element::ElementType;
use super::ImportErrorKind;

/// What every file begins with.
pub const MAGIC: &[u8] = b"\x93NUMPY";

/// Most bytes of an array in an archive: values of 8 bytes, and a header.
pub const MAX_NPY: u64 = 8 * MAX_VALUES + (1 << 16);

/// The three fields of a header.
#[derive(Debug, PartialEq, Eq)]
struct Header<'a> {
    descr: &'a str,
    fortran: bool,
    shape: Vec<u64>,
}

/// An array of floats in any order of dimensions.
pub fn read(name: &str, bytes: &[u8]) -> Result<Array, ImportErrorKind> {
    let (header, data) = split(bytes)
        .and_then(|(header, data)| Some((parse(header)?, data)))
        .ok_or_else(|| ImportErrorKind::Npy {
            name: name.to_owned(),
        })?;
    let element = match header.descr {
        "<f8" => ElementType::F64,
        "<f4" => ElementType::F32,
        "<f2" => ElementType::F16,
        found => {
            return Err(ImportErrorKind::ElementType {
                tensor: name.to_owned(),
                found: found.to_owned(),
            })
        }
    };
    let count = elements(name, &header.shape)?;
    let needed = count * element.size() as u64;
    let data = usize::try_from(needed)
        .ok()
        .and_then(|needed| data.get(..needed));
    let data = data.ok_or_else(|| ImportErrorKind::Truncated {
        tensor: name.to_owned(),
        storage: "the array".to_owned(),
        needed,
        found: bytes.len() as u64,
    })?;
    let stored = floats(name, element, data)?;
    let array = Array {
        shape: header.shape,
        values: stored,
    };
    Ok(if header.fortran {
        array.reversed()
    } else {
        array
    })
}

/// The header's text and what follows it.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    let (len, rest) = match version {
        [1, _] => {
            let (len, rest) = rest.split_first_chunk()?;
            (u16::from_le_bytes(*len).into(), rest)
        }
        [2 | 3, _] => {
            let (len, rest) = rest.split_first_chunk()?;
            (u32::from_le_bytes(*len) as usize, rest)
        }
        _ => return None,
    };
    let (header, data) = rest.split_at_checked(len)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`
fn parse(header: &str) -> Option<Header<'_>> {
    let field = |name: &str| {
        let (_, value) = header.split_once(&format!("'{name}':"))?;
        Some(value.trim_start())
    };
    let (descr, _) = field("descr")?.strip_prefix('\'')?.split_once('\'')?;
    let order = field("fortran_order")?;
    let (shape, _) = field("shape")?.strip_prefix('(')?.split_once(')')?;
    let dims = shape
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty());
    let fortran = match (order.starts_with("True"), order.starts_with("False")) {
        (true, _) => true,
        (_, true) => false,
        _ => return None,
    };
    Some(Header {
        descr,
        fortran,
        shape: dims.map(|dim| dim.parse().ok()).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_or_refused() {
        let header = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        let expected = Header {
            descr: "<f4",
            fortran: false,
            shape: vec![2, 3],
        };
        assert_eq!(header, Some(expected));
        let scalar = parse("{'descr': '<f4', 'fortran_order': True, 'shape': (), }");
        assert!(scalar.is_some_and(|header| header.shape.is_empty() && header.fortran));
        for bad in [
            "",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'fortran_order': 1, 'shape': (2,)}",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(read("x", b"\x93NUMPY\x01\0\xff\xff{").is_err());
        assert!(read("x", b"\x93NUMPY\x09\0\0\0").is_err());
    }
}
