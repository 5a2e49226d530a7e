//! Amounts of memory as the API writes them (`8Gi`), to and from [`Mib`]. It may not round silently: what is asked is rounded up, and said so.

use memboss_core::Mib;

/// Text that is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of memory: write whole Mi or Gi, such as 8Gi or 8000Mi")]
pub struct NotMemory(pub String);

/// The same of a field that may be missing: nothing then.
///
/// # Errors
/// [`NotMemory`] as [`parse_mib`].
pub fn parse_mib_if_any(text: Option<&str>) -> Result<Mib, NotMemory> {
    text.map_or(Ok(Mib::ZERO), parse_mib)
}

/// Reads whole bytes, Ki, Mi, Gi, Ti (powers of 1024) or k, M, G, T (powers of 1000), rounded up to MiB.
///
/// # Errors
/// [`NotMemory`] for anything else: fractions, signs, unknown units.
pub fn parse_mib(text: &str) -> Result<Mib, NotMemory> {
    let bad = || NotMemory(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).map(Mib::from_bytes_ceil).ok_or_else(bad)
}

/// As the API writes it.
#[must_use]
pub fn quantity(mib: Mib) -> String {
    mib.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for mib in [0, 1, 1024, 8000, 143_771] {
            assert_eq!(parse_mib(&quantity(Mib::from_mib(mib))), Ok(Mib::from_mib(mib)));
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "Gi", "-1Gi", "1.5Gi", "8Gb", "8 Gi", "1e3", "99999999999Ti"] {
            assert_eq!(parse_mib(text), Err(NotMemory(text.to_owned())), "{text}");
        }
    }
}
