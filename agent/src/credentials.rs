//! How to reach the Redis-compatible server: by a URL that was given, or by what the operator hands out to whoever shows this node's token.

use std::path::PathBuf;

use http::{Method, Request};
use kube::Client;
use kube::config::AuthInfo;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError};
use serde::Deserialize;

/// Where the operator hands out credentials.
const PATH: &str = "/v1/redis-credentials";

/// The server could not be learnt of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The URL is none.
    #[error("failed to read the Redis URL: write redis://[user:password@]host:port")]
    Url(#[source] RedisError),
    /// The operator's address is none.
    #[error("failed to read the operator's URL {0:?}: write https://host:port")]
    OperatorUrl(String),
    /// The operator's certificates cannot be used.
    #[error("failed to read the operator's certificates in {path:?}")]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// They are no certificates.
    #[error("failed to find a certificate in {0:?}")]
    NoCertificate(PathBuf),
    /// The operator does not hand them out.
    #[error("failed to get credentials from the operator")]
    Ask(#[source] kube::Error),
}

/// Longest wait for an answer of the server.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// A connection that gives up in time.
///
/// # Errors
/// When the server does not let it in.
pub async fn connect(info: ConnectionInfo) -> Result<MultiplexedConnection, RedisError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    redis::Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Where the way to the server comes from.
#[derive(Debug)]
pub enum Source {
    /// Given.
    Url(String),
    /// Asked for, and asked for again when the server refuses them.
    Operator {
        /// The operator.
        operator: Operator,
        /// What it said last.
        known: Option<Box<ConnectionInfo>>,
    },
}

/// How to ask the operator.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Its URL.
    pub url: String,
    /// Who vouches for it.
    pub ca: Option<PathBuf>,
    /// What is shown to it.
    pub token: PathBuf,
}

#[derive(Deserialize)]
struct Credentials {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    url: String,
}

impl Source {
    /// How to connect now.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn connection(&mut self) -> Result<ConnectionInfo, Failure> {
        match self {
            Self::Url(url) => url.as_str().into_connection_info().map_err(Failure::Url),
            Self::Operator { known: Some(known), .. } => Ok((**known).clone()),
            Self::Operator { operator, known } => {
                let info = operator.ask().await?;
                *known = Some(Box::new(info.clone()));
                Ok(info)
            }
        }
    }

    /// The server refused something: credentials that were handed out may be out of date.
    pub fn suspect(&mut self, error: &RedisError) {
        if let Self::Operator { known, .. } = self
            && (error.kind() == ErrorKind::AuthenticationFailed
                || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM")))
        {
            *known = None;
        }
    }
}

impl Operator {
    async fn ask(&self) -> Result<ConnectionInfo, Failure> {
        let client = self.client()?;
        // The body is empty: who asks is what the token says.
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .body(Vec::new())
            .map_err(|error| Failure::Ask(kube::Error::HttpError(error)))?;
        let answer: Credentials = client.request(request).await.map_err(Failure::Ask)?;
        let info = answer.url.as_str().into_connection_info().map_err(Failure::Url)?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = answer.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = answer.password {
            settings = settings.set_password(password);
        }
        Ok(info.set_redis_settings(settings))
    }

    /// A client of its own each time: the certificates and the token change, and it is asked rarely.
    fn client(&self) -> Result<Client, Failure> {
        let url = self.url.parse().map_err(|_| Failure::OperatorUrl(self.url.clone()))?;
        let mut config = kube::Config::new(url);
        if let Some(path) = &self.ca {
            let failed = |source| Failure::Certificates { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(failed)?;
            config.root_cert = Some(certificates(&pem).ok_or_else(|| Failure::NoCertificate(path.clone()))?);
        }
        config.auth_info = AuthInfo { token_file: Some(self.token.display().to_string()), ..AuthInfo::default() };
        config.connect_timeout = Some(std::time::Duration::from_secs(3));
        config.read_timeout = Some(std::time::Duration::from_secs(5));
        Client::try_from(config).map_err(Failure::Ask)
    }
}

/// The certificates of a PEM file, as DER.
fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    use base64::Engine as _;
    let text = std::str::from_utf8(pem).ok()?;
    let mut found = Vec::new();
    for block in text.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let (body, _) = block.split_once("-----END CERTIFICATE-----")?;
        let compact: String = body.split_ascii_whitespace().collect();
        found.push(base64::engine::general_purpose::STANDARD.decode(compact).ok()?);
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_from_pem() {
        let pem = "x\n-----BEGIN CERTIFICATE-----\nAQID\nBA==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBQ==\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(pem.as_bytes()), Some(vec![vec![1, 2, 3, 4], vec![5]]));
        assert_eq!(certificates(b"nothing"), None);
        assert_eq!(certificates(b"-----BEGIN CERTIFICATE-----\nAQ"), None);
    }
}
