//! Names as types that cannot be mistaken for one another. It may check their form, never whether they exist.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that is empty, too long, or has characters that names do not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {kind}: 1 to 253 visible ASCII characters without spaces are")]
pub struct BadName {
    kind: &'static str,
    value: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// [`BadName`] unless it is 1 to 253 visible ASCII characters.
            pub fn new(value: impl Into<String>) -> Result<Self, BadName> {
                let value = value.into();
                let fits = (1..=253).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
                if fits { Ok(Self(value.into())) } else { Err(BadName { kind: $kind, value }) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(value: String) -> Result<Self, BadName> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// A lease's name, unique for the engine that holds it (`namespace/name` for one that is a custom resource). Asking twice under one id is asking once.
    LeaseId,
    "lease id"
);
name!(
    /// A GPU's UUID as NVML gives it.
    GpuUuid,
    "GPU UUID"
);
name!(
    /// A GPU's product name with spaces written as dashes, as node labels have it (`NVIDIA-H100-80GB-HBM3`).
    GpuModel,
    "GPU model"
);
name!(
    /// A node's name.
    NodeName,
    "node name"
);

impl GpuModel {
    /// From NVML's product name, which has spaces.
    ///
    /// # Errors
    /// [`BadName`] when nothing sensible remains.
    pub fn from_product(product: &str) -> Result<Self, BadName> {
        Self::new(product.split_whitespace().collect::<Vec<_>>().join("-"))
    }

    /// Whether a wish like `H100` means this model: a case-insensitive match of a part of the name.
    #[must_use]
    pub fn matches(&self, wish: &str) -> bool {
        self.as_str().to_ascii_lowercase().contains(&wish.to_ascii_lowercase())
    }
}

impl LeaseId {
    /// Stands for a lease that is gone.
    pub(crate) fn gone() -> Self {
        Self("(gone)".into())
    }
}

impl NodeName {
    /// Stands for no node at all.
    pub(crate) fn nowhere() -> Self {
        Self("(none)".into())
    }
}
