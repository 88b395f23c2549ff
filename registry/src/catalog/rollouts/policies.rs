//! Reads and writes the policies of rollouts. A policy is a named set of rules, which
//! configurations may use by default.

use std::str::FromStr;

use deploy_rollout::Policy;
use deploy_store::ConfigurationName;
use deploy_wire::command::{Rolling, RolloutRules};
use deploy_wire::fleet::Label;
use jiff::Timestamp;

use crate::catalog::audit::Change;
use crate::catalog::fleet::running;
use crate::catalog::tx::{Tx, query, query_as, query_scalar};
use crate::catalog::{Catalog, Error, Result, bad_row, nanoseconds, timestamp};

/// A policy with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPolicy {
    /// The name of the policy.
    pub name: String,
    /// The rules of the policy.
    pub policy: Policy,
    /// The fingerprint and the comment of the key that set the policy.
    pub who: String,
    /// When the policy was set.
    pub since: Timestamp,
    /// The configurations that use the policy by default.
    pub used_by: Vec<String>,
}

/// The policy of a change: the policy that the flags of the change name, or else the default policy
/// of the configuration, or else a policy with the default rules. Rules in the flags replace rules
/// of this policy. `None` if the registry offers the change to all hosts at once.
pub async fn choose(
    transaction: &mut Tx,
    name: &ConfigurationName,
    rolling: &Rolling,
) -> Result<Option<Policy>> {
    if rolling.at_once {
        return Ok(None);
    }
    let default: Option<String> = query_scalar(
        "SELECT p.policy FROM policy_uses u JOIN rollout_policies p ON p.name = u.policy \
         WHERE u.configuration = $1",
    )
    .bind(name.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    if rolling.rules.is_empty() && default.is_none() {
        return Ok(None);
    }
    let base = match &rolling.rules.policy {
        Some(policy) => Some(require(transaction, policy).await?),
        None => default,
    };
    let base = base.map(|json| serde_json::from_str(&json).map_err(|err| bad_row(&err)));
    with_rules(base.transpose()?.unwrap_or_default(), &rolling.rules).map(Some)
}

async fn require(transaction: &mut Tx, name: &Label) -> Result<String> {
    let found: Option<String> = query_scalar("SELECT policy FROM rollout_policies WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
    let none = || Error::NotFound(format!("policy \"{name}\" not found; see rollout policy list"));
    found.ok_or_else(none)
}

/// Returns `policy` with the rules that the flags set. Fails if this policy is not valid.
fn with_rules(mut policy: Policy, rules: &RolloutRules) -> Result<Policy> {
    let RolloutRules { waves, max_failed, max_absent, .. } = rules;
    policy.waves = given("waves", waves.as_deref(), policy.waves)?;
    policy.max_failed = given("max-failed", max_failed.as_deref(), policy.max_failed)?;
    policy.max_absent = given("max-absent", max_absent.as_deref(), policy.max_absent)?;
    policy.soak = rules.soak.unwrap_or(policy.soak);
    policy.lost_after = rules.lost_after.unwrap_or(policy.lost_after);
    policy.wave_timeout = rules.wave_timeout.unwrap_or(policy.wave_timeout);
    policy.allow_unknown |= rules.allow_unknown;
    policy.check().map_err(|err| Error::Invalid(err.to_string()))?;
    Ok(policy)
}

/// The value of the flag `flag`, parsed from `text`. Without `text`, the value is `default`.
pub(super) fn given<T: FromStr<Err: std::fmt::Display>>(
    flag: &str,
    text: Option<&str>,
    default: T,
) -> Result<T> {
    let Some(text) = text else { return Ok(default) };
    text.parse().map_err(|err| Error::Invalid(format!("-{flag}: {err}")))
}

impl Catalog {
    /// Whether changes of a configuration start a rollout by default.
    pub async fn has_policy(&self, name: &ConfigurationName) -> Result<bool> {
        let mut transaction = self.read_tx().await?;
        Ok(choose(&mut transaction, name, &Rolling::default()).await?.is_some())
    }

    /// The policy that a rollout with these flags would have.
    pub async fn policy_of(&self, name: &ConfigurationName, rolling: &Rolling) -> Result<Policy> {
        let mut transaction = self.read_tx().await?;
        Ok(choose(&mut transaction, name, rolling).await?.unwrap_or_default())
    }

    /// Sets the rules of a policy. Each rule that `rules` does not set gets its default.
    pub async fn set_policy(
        &self,
        name: &Label,
        rules: &RolloutRules,
        change: &Change,
    ) -> Result<Policy> {
        let policy = with_rules(Policy::default(), rules)?;
        let mut transaction = self.change_tx(change).await?;
        query(
            "INSERT INTO rollout_policies (name, policy, who, since) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO UPDATE SET policy = $2, who = $3, since = $4",
        )
        .bind(name.as_str())
        .bind(serde_json::to_string(&policy).map_err(|err| bad_row(&err))?)
        .bind(&change.key)
        .bind(nanoseconds(change.now))
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(policy)
    }

    /// Sets the default policy of a configuration. Without `policy`, removes the default policy.
    pub async fn use_policy(
        &self,
        name: &ConfigurationName,
        policy: Option<&Label>,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        if running::current(&mut transaction, name).await?.is_none() {
            return Err(Error::NotFound(format!("configuration \"{name}\" not found")));
        }
        query("DELETE FROM policy_uses WHERE configuration = $1")
            .bind(name.as_str())
            .execute(&mut transaction)
            .await?;
        if let Some(policy) = policy {
            require(&mut transaction, policy).await?;
            query("INSERT INTO policy_uses (configuration, policy) VALUES ($1, $2)")
                .bind(name.as_str())
                .bind(policy.as_str())
                .execute(&mut transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// Deletes a policy. Fails if a configuration uses the policy by default.
    pub async fn delete_policy(&self, name: &Label, change: &Change) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        require(&mut transaction, name).await?;
        let user: Option<String> =
            query_scalar("SELECT configuration FROM policy_uses WHERE policy = $1")
                .bind(name.as_str())
                .fetch_optional(&mut transaction)
                .await?;
        if let Some(user) = user {
            let quoted = deploy_wire::command::quote(&user);
            let text = format!(
                "configuration \"{user}\" uses policy \"{name}\"; to end this use, run: rollout \
                 policy use -name {quoted}"
            );
            return Err(Error::Conflict(text));
        }
        query("DELETE FROM rollout_policies WHERE name = $1")
            .bind(name.as_str())
            .execute(&mut transaction)
            .await?;
        transaction.commit().await
    }

    /// All policies, sorted by name.
    pub async fn policies(&self) -> Result<Vec<NamedPolicy>> {
        let rows: Vec<(String, String, String, i64, String)> = query_as(
            "SELECT p.name, p.policy, p.who, p.since, COALESCE((SELECT STRING_AGG(u.configuration, \
             '/') FROM policy_uses u WHERE u.policy = p.name), '') FROM rollout_policies p \
             ORDER BY p.name",
        )
        .fetch_all(&mut self.read_tx().await?)
        .await?;
        let policy =
            |(name, policy, who, since, used_by): (String, String, String, i64, String)| {
                Ok(NamedPolicy {
                    name,
                    policy: serde_json::from_str(&policy).map_err(|err| bad_row(&err))?,
                    who,
                    since: timestamp(since),
                    used_by: used_by
                        .split('/')
                        .filter(|name| !name.is_empty())
                        .map(str::to_owned)
                        .collect(),
                })
            };
        rows.into_iter().map(policy).collect()
    }
}
