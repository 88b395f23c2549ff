-- Several registries that share a catalogue on a database server, with their blobs in one bucket.
-- The tables are empty if the catalogue has only one registry.

-- `signal` is the number of the last transaction that woke tasks in all registries. `shown` is the
-- number of the last transaction that changed what registries have in memory about the fleet: a
-- wave of a rollout has opened, a rollout has ended, a host is held or released, or maintenance
-- windows are others.
INSERT INTO counters (name, value) VALUES ('signal', 0);
INSERT INTO counters (name, value) VALUES ('shown', 0);

-- The registries. `id` is random, and new at each start. `started` and `heartbeat` are by the clock
-- of the database. `host_key` is the fingerprint of the host key, `operators` and `services` are
-- the digests of the key files. `stopped` says that the registry has ended in the usual way.
CREATE TABLE registries (
    id        TEXT    NOT NULL PRIMARY KEY,
    address   TEXT    NOT NULL,
    version   TEXT    NOT NULL,
    host_key  TEXT    NOT NULL,
    operators TEXT    NOT NULL,
    services  TEXT    NOT NULL,
    started   BIGINT  NOT NULL,
    heartbeat BIGINT  NOT NULL,
    stopped   BOOLEAN NOT NULL
);

-- Work that only one registry does at a time, and the registry that does it.
CREATE TABLE duties (
    name     TEXT NOT NULL PRIMARY KEY,
    registry TEXT NOT NULL
);

-- The agents that are or were connected to a registry. `time` is when the agent connected, or when
-- it was last seen. `written` is when the row was written, by the clock of the database.
CREATE TABLE contacts (
    registry      TEXT    NOT NULL,
    configuration TEXT    NOT NULL,
    host          TEXT    NOT NULL,
    instance      TEXT    NOT NULL,
    address       TEXT    NOT NULL,
    connected     BOOLEAN NOT NULL,
    duplicate     BOOLEAN NOT NULL,
    time          BIGINT  NOT NULL,
    written       BIGINT  NOT NULL,
    PRIMARY KEY (registry, configuration, host)
) WITHOUT ROWID;
CREATE INDEX contacts_by_written ON contacts (written);

-- The last polls of agents. `fetched` is the number of the last rollout whose target the agent has
-- read, or 0.
CREATE TABLE polls (
    configuration TEXT   NOT NULL,
    key           TEXT   NOT NULL,
    address       TEXT   NOT NULL,
    time          BIGINT NOT NULL,
    fetched       BIGINT NOT NULL,
    written       BIGINT NOT NULL,
    PRIMARY KEY (configuration, key, address)
) WITHOUT ROWID;
CREATE INDEX polls_by_written ON polls (written);
