-- A configuration has a history with a number of its own: a configuration that is deleted and
-- made again has a new one, and what is left of the old one is removed bit by bit.
--
-- `uses` has the layers of the states that are kept, which are the current state and the targets
-- of a rollback. Whoever asks what uses a version or a blob looks there. So the answer takes as
-- long for a configuration with ten thousand states as for one with ten.
--
-- The program moves the rows of the tables `old_...` and then drops these tables.

ALTER TABLE configurations ADD COLUMN history BIGINT NOT NULL DEFAULT 0;
UPDATE configurations SET history = numbered.history
FROM (SELECT name, ROW_NUMBER() OVER (ORDER BY name) AS history FROM configurations) AS numbered
WHERE numbered.name = configurations.name;
CREATE UNIQUE INDEX configurations_by_history ON configurations (history);
INSERT INTO counters (name, value) SELECT 'history', COUNT(*) FROM configurations;
INSERT INTO counters (name, value) VALUES ('states', 0);
-- For how many states `uses` was made; -1: it has to be made anew.
INSERT INTO counters (name, value) VALUES ('keep_states', -1);

DROP INDEX state_layers_by_component;
DROP INDEX state_layers_by_digest;
ALTER TABLE state_layers RENAME TO old_state_layers;
ALTER TABLE states RENAME TO old_states;

CREATE TABLE states (
    history  BIGINT  NOT NULL,
    number   BIGINT  NOT NULL,
    hash     TEXT    NOT NULL,
    modified BIGINT  NOT NULL,
    who      TEXT    NOT NULL,
    command  TEXT    NOT NULL,
    lost     BOOLEAN NOT NULL DEFAULT FALSE,
    back_to  BIGINT,
    PRIMARY KEY (history, number)
) WITHOUT ROWID;

CREATE TABLE state_layers (
    history   BIGINT NOT NULL,
    number    BIGINT NOT NULL,
    position  BIGINT NOT NULL,
    component TEXT   NOT NULL,
    version   TEXT   NOT NULL,
    digest    TEXT   NOT NULL,
    created   BIGINT NOT NULL,
    PRIMARY KEY (history, number, position),
    FOREIGN KEY (history, number) REFERENCES states (history, number)
) WITHOUT ROWID;

CREATE TABLE uses (
    history   BIGINT NOT NULL,
    number    BIGINT NOT NULL,
    position  BIGINT NOT NULL,
    component TEXT   NOT NULL,
    version   TEXT   NOT NULL,
    digest    TEXT   NOT NULL,
    PRIMARY KEY (history, number, position)
) WITHOUT ROWID;
CREATE INDEX uses_by_version ON uses (component, version);
CREATE INDEX uses_by_digest ON uses (digest);

-- Histories of deleted configurations, whose rows are still to be removed.
CREATE TABLE removed_histories (
    history BIGINT NOT NULL PRIMARY KEY
);

CREATE INDEX versions_by_number ON versions (component, number);
-- Has all that counting needs, so that `stat` reads no other rows.
CREATE INDEX blobs_counted ON blobs (digest, state, bytes);
