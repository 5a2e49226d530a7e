//! The webhook's own certificate authority and certificate: made here, kept in a Secret that all replicas share, renewed in time, told to the API server.
//! While one CA follows another, both are trusted. It may not serve anything.

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use memboss_crds::OPERATOR;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

/// The Secret.
const SECRET: &str = "memboss-webhook-cert";
/// The configuration that trusts the CA. An uninstall takes all webhooks out of it.
pub const WEBHOOK: &str = "memboss";
/// How long a certificate is valid.
const LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// With less than this left it is renewed.
const RENEW: SignedDuration = SignedDuration::from_hours(24 * 10);

/// A serving certificate with its key and the CAs to trust, all as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Certificate chain.
    pub certificate: String,
    /// Private key.
    pub key: String,
    /// CA certificates: the present one, and the one before it.
    pub trusted: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity { .. }")
    }
}

/// The identity that is valid now: from the Secret, or made and put there. Of several replicas that make one at once, one wins and all use it.
///
/// # Errors
/// When the Secret can be neither read nor written.
pub async fn current(client: &Client, namespace: &str, service: &str) -> Result<Identity> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    for _ in 0..10 {
        let present = api.get_opt(SECRET).await.context("failed to read Secret memboss-webhook-cert")?;
        if let Some(identity) = present.as_ref().and_then(valid) {
            return Ok(identity);
        }
        let before = present.as_ref().and_then(|secret| text(secret, "ca.crt")).unwrap_or_default();
        let fresh = make(namespace, service, &before)?;
        let secret = secret(&fresh, present.as_ref().and_then(kube::ResourceExt::resource_version));
        let written = match present {
            Some(_) => api.replace(SECRET, &PostParams::default(), &secret).await,
            None => api.create(&PostParams::default(), &secret).await,
        };
        match written {
            Ok(_) => return Ok(fresh),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("failed to write Secret memboss-webhook-cert"),
        }
    }
    anyhow::bail!("Secret memboss-webhook-cert changes too fast to be used")
}

/// Tells the API server which CAs to trust for the webhook; whether that was news to it.
///
/// # Errors
/// When the configuration cannot be read or written.
pub async fn publish(client: &Client, identity: &Identity) -> Result<bool> {
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let Some(present) = api.get_opt(WEBHOOK).await.context("failed to read MutatingWebhookConfiguration memboss")?
    else {
        return Ok(false);
    };
    let bundle = ByteString(identity.trusted.clone().into_bytes());
    let webhooks = present.webhooks.unwrap_or_default();
    if webhooks.iter().all(|hook| hook.client_config.ca_bundle.as_ref() == Some(&bundle)) {
        return Ok(false);
    }
    let patch: Vec<_> = (0..webhooks.len())
        .map(|at| json!({ "op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": bundle }))
        .collect();
    let patch = serde_json::from_value::<json_patch::Patch>(json!(patch)).context("failed to write a patch")?;
    let parameters = PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() };
    api.patch(WEBHOOK, &parameters, &Patch::<()>::Json(patch))
        .await
        .context("failed to tell the API server the webhook's CA")?;
    Ok(true)
}

fn text(secret: &Secret, name: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok()
}

fn valid(secret: &Secret) -> Option<Identity> {
    let until: Timestamp = secret.annotations().get("memboss.dev/renew-after")?.parse().ok()?;
    if Timestamp::now() >= until {
        return None;
    }
    Some(Identity {
        certificate: text(secret, "tls.crt")?,
        key: text(secret, "tls.key")?,
        trusted: text(secret, "bundle.crt")?,
    })
}

fn secret(identity: &Identity, version: Option<String>) -> Secret {
    let own = identity.trusted.split_inclusive("-----END CERTIFICATE-----").next().unwrap_or_default();
    let renew = Timestamp::now().checked_add(LIFE - RENEW).unwrap_or_else(|_| Timestamp::now());
    let data = [
        ("tls.crt", identity.certificate.as_str()),
        ("tls.key", &identity.key),
        ("ca.crt", own),
        ("bundle.crt", &identity.trusted),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            resource_version: version,
            annotations: Some([("memboss.dev/renew-after".to_owned(), renew.to_string())].into()),
            ..ObjectMeta::default()
        },
        data: Some(
            data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).collect(),
        ),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

fn make(namespace: &str, service: &str, ca_before: &str) -> Result<Identity> {
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "memboss webhook CA");
    span(&mut ca);
    let ca_key = KeyPair::generate().context("failed to make the CA's key")?;
    let ca_certificate = ca.self_signed(&ca_key).context("failed to make the CA")?;
    let issuer = Issuer::new(ca, ca_key);
    let names = [
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    let mut serving = CertificateParams::new(names.to_vec())?;
    serving.distinguished_name.push(DnType::CommonName, "memboss webhook");
    span(&mut serving);
    let key = KeyPair::generate().context("failed to make the webhook's key")?;
    let certificate = serving.signed_by(&key, &issuer).context("failed to make the webhook's certificate")?;
    Ok(Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        trusted: format!("{}{ca_before}", ca_certificate.pem()),
    })
}

/// From an hour ago, for clocks that lag, to the end of its life.
fn span(certificate: &mut CertificateParams) {
    let day = |at: Timestamp| {
        let date = at.to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let now = Timestamp::now();
    certificate.not_before = day(now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now));
    certificate.not_after = day(now.checked_add(LIFE + SignedDuration::from_hours(24)).unwrap_or(now));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cas_are_trusted_while_one_follows_the_other() {
        let first = make("ns", "svc", "").unwrap();
        let kept = secret(&first, None);
        assert_eq!(valid(&kept), Some(first));
        let second = make("ns", "svc", &text(&kept, "ca.crt").unwrap()).unwrap();
        assert_eq!(second.trusted.matches("BEGIN CERTIFICATE").count(), 2);
        let third = make("ns", "svc", &text(&secret(&second, None), "ca.crt").unwrap()).unwrap();
        assert_eq!(third.trusted.matches("BEGIN CERTIFICATE").count(), 2, "only the last one before is trusted still");
    }

    #[test]
    fn a_secret_past_its_time_is_not_used() {
        let mut old = secret(&make("ns", "svc", "").unwrap(), None);
        old.annotations_mut().insert("memboss.dev/renew-after".into(), "2020-01-01T00:00:00Z".into());
        assert_eq!(valid(&old), None);
    }
}
