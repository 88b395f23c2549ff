-- Rollouts: a change that reaches the hosts in waves.

-- A proposed state is the target of a rollout. It was never current, so no rollback restores it.
ALTER TABLE states ADD COLUMN proposed BOOLEAN NOT NULL DEFAULT FALSE;
INSERT INTO counters (name, value) VALUES ('rollout', 0);

-- `base` and `target` are numbers of states. `revision` is the number of the change that agents of
-- the open waves repeat in their reports. `step` grows with every change of the row: a registry
-- writes only if it has seen the last step. `policy` is JSON. `soaking` is when the soak of the
-- open wave began, and `waiting` is since when the next wave waits for hosts that have just
-- disconnected. `budget` is how many hosts may fail.
CREATE TABLE rollouts (
    number        BIGINT NOT NULL PRIMARY KEY,
    configuration TEXT   NOT NULL,
    history       BIGINT NOT NULL,
    base          BIGINT NOT NULL,
    target        BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    policy        TEXT   NOT NULL,
    status        TEXT   NOT NULL,
    why           TEXT   NOT NULL,
    status_since  BIGINT NOT NULL,
    wave          BIGINT NOT NULL DEFAULT 0,
    opened        BIGINT,
    soaking       BIGINT,
    soak_skipped  BOOLEAN NOT NULL DEFAULT FALSE,
    waiting       BIGINT,
    budget        BIGINT NOT NULL DEFAULT 0,
    step          BIGINT NOT NULL DEFAULT 0,
    who           TEXT   NOT NULL,
    started       BIGINT NOT NULL,
    ended         BIGINT
);
CREATE UNIQUE INDEX rollouts_active ON rollouts (configuration) WHERE ended IS NULL;
CREATE INDEX rollouts_by_configuration ON rollouts (configuration, number);

-- The hosts that a wave has taken. `healthy` is since when the host is healthy on the target.
-- `result` is JSON. The failure of a host that was unhealthy before (`repaired`) does not count.
-- `has_left`: an operator holds the host, so that it does not count.
CREATE TABLE rollout_hosts (
    rollout  BIGINT  NOT NULL REFERENCES rollouts (number),
    host     BIGINT  NOT NULL REFERENCES hosts (host),
    wave     BIGINT  NOT NULL,
    offered  BIGINT  NOT NULL,
    healthy  BIGINT,
    result   TEXT,
    repaired BOOLEAN NOT NULL,
    marked   BOOLEAN NOT NULL,
    has_left BOOLEAN NOT NULL,
    PRIMARY KEY (rollout, host)
) WITHOUT ROWID;

-- The waves that were opened, with the number of their hosts.
CREATE TABLE rollout_waves (
    rollout  BIGINT NOT NULL REFERENCES rollouts (number),
    wave     BIGINT NOT NULL,
    selector TEXT   NOT NULL,
    hosts    BIGINT NOT NULL,
    opened   BIGINT NOT NULL,
    PRIMARY KEY (rollout, wave)
) WITHOUT ROWID;

CREATE TABLE rollout_policies (
    name   TEXT   NOT NULL PRIMARY KEY,
    policy TEXT   NOT NULL,
    who    TEXT   NOT NULL,
    since  BIGINT NOT NULL
);

-- The maintenance windows of a group, in which its hosts switch to a new configuration.
CREATE TABLE group_windows (
    name  TEXT   NOT NULL PRIMARY KEY,
    times TEXT   NOT NULL,
    who   TEXT   NOT NULL,
    since BIGINT NOT NULL
);

-- The policy that applies to changes of a configuration without flags for a rollout.
CREATE TABLE policy_uses (
    configuration TEXT NOT NULL PRIMARY KEY,
    policy        TEXT NOT NULL REFERENCES rollout_policies (name)
);
