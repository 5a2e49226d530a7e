//! Users and groups of this machine, by name or number.

use nix::unistd::{Group, User};

/// The number of that user.
pub(super) fn user(name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!(
            "there is no user {name:?} on this machine: a name that `getent passwd` knows, or a number, is allowed"
        )),
        Err(error) => Err(format!("user {name:?} cannot be looked up: {error}")),
    }
}

/// The number of that group.
pub(super) fn group(name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!(
            "there is no group {name:?} on this machine: a name that `getent group` knows, or a number, is allowed"
        )),
        Err(error) => Err(format!("group {name:?} cannot be looked up: {error}")),
    }
}
