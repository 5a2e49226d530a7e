//! How long one question to the API server is waited for. A connection that was cut without a word (a node that went, a proxy that forgot it) never answers, and whoever
//! waits for it neither works nor ends. It may not ask again by itself.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// An answer that takes longer does not come.
const LONGEST: Duration = Duration::from_secs(10);

/// The answer, or that there was none.
///
/// # Errors
/// Those of the question; none in time.
pub async fn answered<T>(what: &str, question: impl Future<Output = Result<T>>) -> Result<T> {
    within(LONGEST, what, question).await
}

async fn within<T>(longest: Duration, what: &str, question: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(longest, question).await;
    answer.with_context(|| format!("{what}: the API server did not answer within {} s", longest.as_secs()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_that_nobody_answers_ends_with_what_was_asked() {
        let never = std::future::pending::<Result<()>>();
        let error = within(Duration::ZERO, "the webhook's certificate", never).await.unwrap_err();
        assert_eq!(error.to_string(), "the webhook's certificate: the API server did not answer within 0 s");
    }
}
