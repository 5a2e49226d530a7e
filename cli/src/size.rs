//! Sizes as people write them on a command line. Pure.

use memboss_core::Mib;

/// `8Gi`, `500Mi`, `8G`, `8GB`, `8g` and `500M` (the same: powers of 1024, as GPU tools mean them), or a number of MiB.
///
/// # Errors
/// A sentence that says what would be right.
pub(crate) fn parse(text: &str) -> Result<Mib, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "M" | "m" | "Mi" | "MB" | "MiB" => Some(1),
        "G" | "g" | "Gi" | "GB" | "GiB" => Some(1024),
        "T" | "t" | "Ti" | "TB" | "TiB" => Some(1024 * 1024),
        _ => None,
    };
    let mib = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    match mib {
        Some(0) => Err("nothing is no size: 8Gi and 500Mi are".to_owned()),
        Some(mib) => Ok(Mib::from_mib(mib)),
        None if text.starts_with("--") => Err(format!("a size is missing before {text}: 8Gi, 500Mi and 500 (MiB) are")),
        None => Err(format!("{text:?} is no size: 8Gi, 500Mi and 500 (MiB) are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib) in [
            ("8Gi", 8192),
            ("8G", 8192),
            ("8GB", 8192),
            ("8g", 8192),
            ("8000M", 8000),
            ("500Mi", 500),
            ("500", 500),
            ("1TiB", 1 << 20),
        ] {
            assert_eq!(parse(text), Ok(Mib::from_mib(mib)), "{text}");
        }
        for text in ["", "0", "-1Gi", "1.5Gi", "8Gb", "lots", "99999999999999999999"] {
            assert!(parse(text).is_err_and(|why| why.contains("8Gi")), "{text}");
        }
    }
}
