//! Hands each agent its own Redis user: it may write its node's keys and nothing else. Who asks is proven by its token, which names its node; a Secret
//! would be readable by all agents. The password follows from one secret and the node's name, so that any replica gives the same.

use anyhow::{Context as _, Result, bail};
use hmac::{Hmac, Mac as _};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use redis::acl::Rule;
use serde::Serialize;
use sha2::Sha256;

/// What an agent's token must be for.
pub const AUDIENCE: &str = "memboss";
/// Where the API server says which node a token is bound to.
const NODE: &str = "authentication.kubernetes.io/node-name";

/// The way to Redis, for an agent.
#[derive(Clone, Debug, Serialize)]
pub struct Credentials {
    /// Where, without user and password.
    pub url: String,
    /// The node's user.
    pub username: String,
    /// Its password.
    pub password: String,
}

/// Gives out credentials.
#[derive(Clone)]
pub struct Issuer {
    client: Client,
    redis: redis::Client,
    /// Host and port as agents reach it.
    url: String,
    secret: String,
    agents: String,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Issues users of that Redis to the agents of that namespace.
    #[must_use]
    pub fn new(client: Client, redis: redis::Client, url: String, secret: String, namespace: &str) -> Self {
        Self { client, redis, url, secret, agents: format!("system:serviceaccount:{namespace}:memboss-agent") }
    }

    /// Credentials for whoever holds that token.
    ///
    /// # Errors
    /// When the token is not an agent's, names no node, or Redis cannot be told.
    pub async fn issue(&self, token: &str) -> Result<Credentials> {
        let node = self.node_of(token).await?;
        let username = format!("n-{node}");
        let password = self.password(&node)?;
        let mut connection = self.redis.get_multiplexed_async_connection().await.context("failed to reach Redis")?;
        let rules = [
            Rule::Reset,
            Rule::On,
            Rule::AddPass(password.clone()),
            Rule::Pattern(format!("{{n:{node}}}:*")),
            Rule::AddCommand("hset".into()),
            Rule::AddCommand("pexpire".into()),
            Rule::AddCommand("hget".into()),
            Rule::AddCommand("multi".into()),
            Rule::AddCommand("exec".into()),
            Rule::AddCommand("ping".into()),
            Rule::AddCommand("hello".into()),
        ];
        redis::cmd("ACL")
            .arg("SETUSER")
            .arg(&username)
            .arg(&rules[..])
            .query_async::<()>(&mut connection)
            .await
            .context("failed to make the node's Redis user")?;
        Ok(Credentials { url: self.url.clone(), username, password })
    }

    async fn node_of(&self, token: &str) -> Result<String> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![AUDIENCE.into()]) },
            ..TokenReview::default()
        };
        let review = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .context("failed to have the token reviewed")?;
        let status = review.status.unwrap_or_default();
        let user = status.user.unwrap_or_default();
        if status.authenticated != Some(true) || user.username.as_deref() != Some(&self.agents) {
            bail!("the token is not one of {}", self.agents);
        }
        let named = user.extra.unwrap_or_default().get(NODE).and_then(|names| names.first().cloned());
        named.context("the token is not bound to a node")
    }

    fn password(&self, node: &str) -> Result<String> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).context("failed to use the Redis secret")?;
        mac.update(node.as_bytes());
        Ok(mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
