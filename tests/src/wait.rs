//! Waiting for what is expected, by looking until it is there. Nobody sleeps for a time and hopes.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until `look` finds something, for at most `seconds`, which only bound a failure: nothing waits that long when things are well.
///
/// # Errors
/// When it is not found in time (the message says what was expected and what was seen last), or `look` fails for good.
pub async fn until<T, F, R>(what: &str, seconds: u64, mut look: F) -> Result<T>
where
    F: FnMut() -> R,
    R: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut trouble = None;
    while Instant::now() < deadline {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => trouble = None,
            Err(error) => trouble = Some(error),
        }
        sleep(LOOK).await;
    }
    match trouble {
        Some(error) => bail!("{what}: not within {seconds} s; looking failed: {error:#}"),
        None => bail!("{what}: not within {seconds} s"),
    }
}

/// Looks again and again for `seconds`, and fails as soon as `look` finds a violation.
///
/// # Errors
/// The violation.
pub async fn never<F, R>(what: &str, seconds: u64, mut look: F) -> Result<()>
where
    F: FnMut() -> R,
    R: Future<Output = Result<Option<String>>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        if let Some(violation) = look().await? {
            bail!("{what}: {violation}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}
