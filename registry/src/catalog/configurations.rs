//! Reads and changes configurations.

use bytes::Bytes;
use deploy_store::{ComponentName, Configuration, ConfigurationName, Layer, VersionName};
use deploy_wire::command::Hash;

use super::audit::Change;
use super::configuration_rows::{
    State, current_before, delete, find_current, find_history, load, load_after, require_current,
    require_state, save, states,
};
use super::fleet::running;
use super::replacing::{check_whole, find_whole, is_there, replace};
use super::tx::query_scalar;
use super::versions::latest_version;
use super::{Catalog, Error, Position, Result, column};

/// Maximum number of states in a short listing, and in each page of [`Catalog::states`].
const LONG: u64 = 200;

impl Catalog {
    /// The first `limit` names of configurations that come after `after`, in byte order.
    pub async fn configuration_names(
        &self,
        after: Option<&ConfigurationName>,
        limit: u64,
    ) -> Result<Vec<ConfigurationName>> {
        let names: Vec<String> =
            query_scalar("SELECT name FROM configurations WHERE name > $1 ORDER BY name LIMIT $2")
                .bind(after.map_or("", ConfigurationName::as_str))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut self.scan_tx().await?)
                .await?;
        names.iter().map(|name| column(name)).collect()
    }

    /// The current state of a configuration; [`Error::NotFound`] if there is no such configuration.
    pub async fn configuration(&self, name: &ConfigurationName) -> Result<Configuration> {
        let mut transaction = self.read_tx().await?;
        let number = require_current(&mut transaction, name).await?;
        load(&mut transaction, name, number).await
    }

    /// The JSON form of the current state of a configuration, if there is such a configuration.
    pub async fn configuration_json(&self, name: &ConfigurationName) -> Result<Option<Bytes>> {
        // If the catalogue is on a server, another registry may have changed the configuration.
        match self.position(name).await? {
            Some(position) => self.configuration_json_at(name, position).await,
            None => self.kept_or_read(name, None).await,
        }
    }

    /// The JSON form of the current state of a configuration. The caller has just read the
    /// configuration's position.
    pub async fn configuration_json_at(
        &self,
        name: &ConfigurationName,
        position: Position,
    ) -> Result<Option<Bytes>> {
        match position.revision {
            Some(revision) => self.kept_or_read(name, Some(revision)).await,
            None => Ok(None),
        }
    }

    /// The document in memory, if it has this revision; or else the document in the database, which
    /// may have a later revision. Without a revision, each document in memory is valid.
    async fn kept_or_read(
        &self,
        name: &ConfigurationName,
        revision: Option<u64>,
    ) -> Result<Option<Bytes>> {
        if let Some(json) = self.documents.get(name, revision) {
            return Ok(Some(json));
        }
        let age = self.documents.age();
        let mut transaction = self.read_tx().await?;
        let Some(current) = running::current(&mut transaction, name).await? else {
            return Ok(None);
        };
        let configuration = load(&mut transaction, name, current.number.cast_unsigned()).await?;
        drop(transaction);
        let json = Bytes::from(configuration.to_json());
        let revision = revision.and(Some(current.revision));
        self.documents.keep(age, name, revision, &json);
        Ok(Some(json))
    }

    /// Applies `item` to the current state of each configuration, in byte order of the names.
    /// Returns the results.
    pub async fn configurations<T>(&self, item: impl Fn(Configuration) -> T) -> Result<Vec<T>> {
        let names = self.configuration_names(None, u64::MAX).await?;
        let mut items = Vec::with_capacity(names.len());
        for name in names {
            // Each configuration has its own transaction, so that other long reads can run in
            // between.
            let mut transaction = self.scan_tx().await?;
            // The configuration may have been deleted since its name was read.
            if let Some(number) = find_current(&mut transaction, &name).await? {
                items.push(item(load(&mut transaction, &name, number).await?));
            }
        }
        Ok(items)
    }

    /// Creates a configuration. With `replace`, the configuration may already exist, and the
    /// function replaces its layers. Returns the number of the state that was current before this
    /// change; `None` if the configuration is new.
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

    /// Copies the layers of `from` to `to`, and creates `to` if it does not exist. With `if_hash`,
    /// the function fails unless the current state of `from` has this hash. Returns the number of
    /// the state of `to` that was current before this change; `None` if `to` is new.
    pub async fn promote(
        &self,
        from: &ConfigurationName,
        to: &ConfigurationName,
        if_hash: Option<&Hash>,
        change: &Change,
    ) -> Result<Option<u64>> {
        let mut transaction = self.change_tx(change).await?;
        let number = require_current(&mut transaction, from).await?;
        let source = load(&mut transaction, from, number).await?;
        if let Some(wanted) = if_hash.filter(|wanted| !wanted.is_of(source.id())) {
            let id = source.id();
            let text = format!(
                "configuration \"{from}\" has hash {id}, not {wanted}; check the configuration again"
            );
            return Err(Error::Conflict(text));
        }
        for layer in source.layers() {
            check_whole(&mut transaction, layer).await?;
        }
        let before = find_current(&mut transaction, to).await?;
        if before.is_none() {
            to.check_new()?;
        }
        save(&mut transaction, to, source.layers().to_vec(), change).await?;
        transaction.commit().await?;
        Ok(before)
    }

    /// Replaces layers of a configuration with the versions in `changes`. With `if_hash`, the
    /// function fails unless the current state has this hash. Returns the old layers of the
    /// components whose version changed.
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

    /// Like [`Catalog::change_configuration`], with the latest version of each component. If the
    /// configuration already has all these versions, the function changes nothing and returns
    /// `None`.
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

    /// Deletes a configuration. After that, no verb can read the configuration's history. Later, gc
    /// removes the rows of the history.
    pub async fn delete_configuration(
        &self,
        name: &ConfigurationName,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        let Some(history) = find_history(&mut transaction, name).await? else {
            return Err(Error::NotFound(format!("\"{name}\" configuration not found")));
        };
        delete(&mut transaction, name, history, change).await?;
        transaction.commit().await
    }

    /// The newest `limit` states of a configuration with numbers below `before`, newest first.
    pub async fn history(
        &self,
        name: &ConfigurationName,
        before: Option<u64>,
        limit: u64,
    ) -> Result<Vec<State>> {
        // A long listing uses a connection for long reads, so that short reads do not wait for it.
        let mut transaction =
            if limit > LONG { self.scan_tx().await? } else { self.read_tx().await? };
        states(&mut transaction, name, before, limit).await
    }

    /// Applies `item` to the number and contents of each state of a configuration, oldest first.
    pub async fn states<T>(
        &self,
        name: &ConfigurationName,
        item: impl Fn(u64, Configuration) -> T,
    ) -> Result<Vec<T>> {
        let mut transaction = self.scan_tx().await?;
        require_current(&mut transaction, name).await?;
        let (mut items, mut after) = (Vec::new(), 0);
        loop {
            let page = load_after(&mut transaction, name, after, LONG).await?;
            let Some((last, _)) = page.last() else { return Ok(items) };
            after = *last;
            items.extend(page.into_iter().map(|(number, state)| item(number, state)));
        }
    }

    /// The state `number` of a configuration.
    pub async fn state(&self, name: &ConfigurationName, number: u64) -> Result<Configuration> {
        let mut transaction = self.read_tx().await?;
        require_current(&mut transaction, name).await?;
        require_state(&mut transaction, name, number).await?;
        load(&mut transaction, name, number).await
    }

    /// The states `from` and `to` with their numbers. `to` defaults to the current state. `from`
    /// defaults to the newest state before `to` that was ever current.
    pub async fn two_states(
        &self,
        name: &ConfigurationName,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<((u64, Configuration), (u64, Configuration))> {
        let mut transaction = self.read_tx().await?;
        let current = require_current(&mut transaction, name).await?;
        let to = to.unwrap_or(current);
        let from = match from {
            Some(number) => Some(number),
            None => current_before(&mut transaction, name, to).await?,
        };
        let Some(from) = from else {
            let text = format!("configuration \"{name}\" has no state before {to}");
            return Err(Error::NotFound(text));
        };
        for number in [from, to] {
            require_state(&mut transaction, name, number).await?;
        }
        let one = load(&mut transaction, name, from).await?;
        let other = load(&mut transaction, name, to).await?;
        Ok(((from, one), (to, other)))
    }
}
