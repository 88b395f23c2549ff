-- The fleet: hosts, what the agents on them report, and what happened.

-- Each change of a configuration has a number of its own, also after the configuration was deleted
-- and made again. Agents repeat it in their reports.
ALTER TABLE configurations ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
INSERT INTO counters (name, value) VALUES ('revision', 0);
INSERT INTO counters (name, value) VALUES ('host', 0);
INSERT INTO counters (name, value) VALUES ('event', 0);

-- A name belongs to the key that reported it first, until the host is retired. `seen` is when the
-- host was connected; it is written rarely, and only with -retire-after.
CREATE TABLE hosts (
    host       BIGINT NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    since      BIGINT NOT NULL,
    seen       BIGINT NOT NULL DEFAULT 0,
    retired    BIGINT,
    held       TEXT,
    held_by    TEXT,
    held_since BIGINT
);
CREATE UNIQUE INDEX hosts_by_name ON hosts (name) WHERE retired IS NULL;
CREATE INDEX hosts_by_key ON hosts (key);

CREATE TABLE host_labels (
    host  BIGINT NOT NULL REFERENCES hosts (host),
    name  TEXT   NOT NULL,
    value TEXT   NOT NULL,
    PRIMARY KEY (host, name)
) WITHOUT ROWID;

-- The last report of each agent. `state` is the number of the state that it runs, if that state is
-- kept for it. `held_state` is the state that a held host is shown. `since` is when the phase
-- began, `reported` when the last report came, both by the registry's clock.
CREATE TABLE agents (
    configuration TEXT   NOT NULL,
    host          BIGINT NOT NULL REFERENCES hosts (host),
    instance      TEXT   NOT NULL,
    seq           BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    attempt       BIGINT NOT NULL,
    tried         BIGINT NOT NULL,
    phase         TEXT   NOT NULL,
    runs          TEXT,
    wants         TEXT,
    reason        TEXT,
    message       TEXT   NOT NULL,
    exit_code     BIGINT,
    output        TEXT,
    steps         TEXT   NOT NULL,
    boot          TEXT   NOT NULL,
    version       TEXT   NOT NULL,
    link          TEXT   NOT NULL,
    since         BIGINT NOT NULL,
    reported      BIGINT NOT NULL,
    retries       BIGINT NOT NULL DEFAULT 0,
    state         BIGINT,
    held_state    BIGINT,
    PRIMARY KEY (configuration, host)
) WITHOUT ROWID;
CREATE INDEX agents_by_host ON agents (host);
CREATE INDEX agents_by_output ON agents (output) WHERE output IS NOT NULL;

-- How many hosts run a state, or are shown it while they are held. `uses` has the layers of these
-- states, too.
CREATE TABLE running (
    history BIGINT NOT NULL,
    number  BIGINT NOT NULL,
    hosts   BIGINT NOT NULL,
    PRIMARY KEY (history, number)
) WITHOUT ROWID;

-- The last deploys of each agent, numbered from 1.
CREATE TABLE attempts (
    configuration TEXT   NOT NULL,
    host          BIGINT NOT NULL REFERENCES hosts (host),
    number        BIGINT NOT NULL,
    phase         TEXT   NOT NULL,
    wants         TEXT,
    reason        TEXT,
    message       TEXT   NOT NULL,
    exit_code     BIGINT,
    output        TEXT,
    steps         TEXT   NOT NULL,
    began         BIGINT NOT NULL,
    reported      BIGINT NOT NULL,
    PRIMARY KEY (configuration, host, number)
) WITHOUT ROWID;
CREATE INDEX attempts_by_host ON attempts (host);
CREATE INDEX attempts_by_output ON attempts (output) WHERE output IS NOT NULL;

-- Ends of the output of scripts, compressed with zstd. Equal outputs are kept once.
CREATE TABLE outputs (
    digest TEXT NOT NULL PRIMARY KEY,
    bytes  BLOB NOT NULL
);

CREATE TABLE events (
    number        BIGINT NOT NULL PRIMARY KEY,
    time          BIGINT NOT NULL,
    kind          TEXT   NOT NULL,
    configuration TEXT   NOT NULL,
    host          TEXT   NOT NULL,
    message       TEXT   NOT NULL
);

CREATE TABLE freezes (
    configuration TEXT   NOT NULL PRIMARY KEY,
    message       TEXT   NOT NULL,
    who           TEXT   NOT NULL,
    since         BIGINT NOT NULL,
    until         BIGINT NOT NULL
);
