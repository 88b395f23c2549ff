//! The verbs of configurations.

use deploy_store::{ComponentName, Configuration, ConfigurationName, Layer, VersionName};
use deploy_wire::command::Hash;

use super::audit::Change;
use super::configuration_rows::{State, find_current, load, require_current, save, states};
use super::replacing::{check_whole, find_whole, is_there, replace};
use super::versions::latest_version;
use super::{Catalog, Error, Result, column};

impl Catalog {
    /// Names of all configurations, in byte order.
    pub async fn configuration_names(&self) -> Result<Vec<ConfigurationName>> {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM configurations ORDER BY name")
                .fetch_all(&self.pool)
                .await?;
        names.iter().map(|name| column(name)).collect()
    }

    /// The current state of a configuration; [`Error::NotFound`] if there is no such configuration.
    pub async fn configuration(&self, name: &ConfigurationName) -> Result<Configuration> {
        let mut transaction = self.read_tx().await?;
        let number = require_current(&mut transaction, name).await?;
        load(&mut transaction, name, number).await
    }

    /// The current states of all configurations, in byte order of their names.
    pub async fn configurations(&self) -> Result<Vec<Configuration>> {
        let mut configurations = Vec::new();
        for name in self.configuration_names().await? {
            // Each is a transaction of its own, so that others get a turn.
            let mut transaction = self.read_tx().await?;
            // It may have been deleted since its name was read.
            if let Some(number) = find_current(&mut transaction, &name).await? {
                configurations.push(load(&mut transaction, &name, number).await?);
            }
        }
        Ok(configurations)
    }

    /// Makes a configuration. With `replace` it may also replace the layers of an existing one.
    /// Returns the number of the state that was current before.
    pub async fn add_configuration(
        &self,
        name: &ConfigurationName,
        layers: &[(ComponentName, VersionName)],
        replace: bool,
        change: &Change,
    ) -> Result<Option<u64>> {
        let mut transaction = self.change_tx(change).await?;
        let mut found = Vec::with_capacity(layers.len());
        for (component, version) in layers {
            found.push(find_whole(&mut transaction, component, version).await?);
        }
        let before = find_current(&mut transaction, name).await?;
        match before {
            None => name.check_new()?,
            Some(_) if replace => {}
            Some(number) => {
                let there = load(&mut transaction, name, number).await?;
                return Err(Error::Conflict(is_there(name, there.layers(), &found)));
            }
        }
        save(&mut transaction, name, found, change).await?;
        transaction.commit().await?;
        Ok(before)
    }

    /// Replaces layers by the named versions. Returns the layers that have another version now.
    pub async fn change_configuration(
        &self,
        name: &ConfigurationName,
        changes: &[(ComponentName, VersionName)],
        if_hash: Option<Hash>,
        change: &Change,
    ) -> Result<Vec<Layer>> {
        let mut transaction = self.change_tx(change).await?;
        let mut found = Vec::with_capacity(changes.len());
        for (component, version) in changes {
            found.push(find_whole(&mut transaction, component, version).await?);
        }
        let replaced = replace(&mut transaction, name, found, if_hash, change).await?;
        transaction.commit().await?;
        Ok(replaced.layers)
    }

    /// As [`Catalog::change_configuration`], with the latest version of each component. If the
    /// configuration has them all, it changes nothing and returns `None`.
    pub async fn bump_configuration(
        &self,
        name: &ConfigurationName,
        components: &[ComponentName],
        if_hash: Option<Hash>,
        change: &Change,
    ) -> Result<Option<Vec<Layer>>> {
        let mut transaction = self.change_tx(change).await?;
        let mut found = Vec::with_capacity(components.len());
        for component in components {
            let latest = latest_version(&mut transaction, component).await?;
            check_whole(&mut transaction, &latest).await?;
            found.push(latest);
        }
        let replaced = replace(&mut transaction, name, found, if_hash, change).await?;
        if !replaced.differs {
            transaction.rollback().await?;
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(replaced.layers))
    }

    /// Deletes a configuration with its history.
    pub async fn delete_configuration(
        &self,
        name: &ConfigurationName,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        if find_current(&mut transaction, name).await?.is_none() {
            return Err(Error::NotFound(format!("\"{name}\" configuration not found")));
        }
        for statement in [
            "DELETE FROM state_layers WHERE configuration = $1",
            "DELETE FROM states WHERE configuration = $1",
            "DELETE FROM configurations WHERE name = $1",
        ] {
            sqlx::query(statement).bind(name.as_str()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The states of a configuration, newest first, `limit` at most.
    pub async fn history(&self, name: &ConfigurationName, limit: u64) -> Result<Vec<State>> {
        let mut transaction = self.read_tx().await?;
        states(&mut transaction, name, limit).await
    }

    /// All states of a configuration with their numbers and layers, oldest first.
    pub async fn states(&self, name: &ConfigurationName) -> Result<Vec<(u64, Configuration)>> {
        let mut transaction = self.read_tx().await?;
        let mut all = Vec::new();
        for state in states(&mut transaction, name, u64::MAX).await?.iter().rev() {
            all.push((state.number, load(&mut transaction, name, state.number).await?));
        }
        Ok(all)
    }

    /// One state of a configuration.
    pub async fn state(&self, name: &ConfigurationName, number: u64) -> Result<Configuration> {
        let mut transaction = self.read_tx().await?;
        let states = states(&mut transaction, name, u64::MAX).await?;
        if !states.iter().any(|state| state.number == number) {
            let text = format!("configuration \"{name}\" has no state {number}");
            return Err(Error::NotFound(text));
        }
        load(&mut transaction, name, number).await
    }

    /// Two states of a configuration with their numbers: `from`, or the state before `to`, and
    /// `to`, or the current state.
    pub async fn two_states(
        &self,
        name: &ConfigurationName,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<((u64, Configuration), (u64, Configuration))> {
        let mut transaction = self.read_tx().await?;
        let states = states(&mut transaction, name, u64::MAX).await?;
        let to = match to {
            Some(number) => number,
            None => require_current(&mut transaction, name).await?,
        };
        let before = || states.iter().map(|state| state.number).find(|number| *number < to);
        let Some(from) = from.or_else(before) else {
            let text = format!("configuration \"{name}\" has no state before {to}");
            return Err(Error::NotFound(text));
        };
        for number in [from, to] {
            if !states.iter().any(|state| state.number == number) {
                let text = format!("configuration \"{name}\" has no state {number}");
                return Err(Error::NotFound(text));
            }
        }
        let one = load(&mut transaction, name, from).await?;
        let other = load(&mut transaction, name, to).await?;
        Ok(((from, one), (to, other)))
    }
}
