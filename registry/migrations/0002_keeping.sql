-- What is kept and why: published blobs, pins, who changed what, and what the last runs
-- of gc and verify said.

-- A blob goes in three steps: its row is condemned, its file is removed, its row is
-- deleted. A crash in between leaves a condemned row, and the next start goes on from it.
CREATE TABLE blobs (
    digest TEXT   NOT NULL PRIMARY KEY,
    bytes  BIGINT NOT NULL,
    state  TEXT   NOT NULL CHECK (state IN ('live', 'condemned', 'damaged')),
    since  BIGINT NOT NULL
);

CREATE TABLE pins (
    component TEXT   NOT NULL,
    version   TEXT   NOT NULL,
    message   TEXT   NOT NULL,
    who       TEXT   NOT NULL,
    since     BIGINT NOT NULL,
    PRIMARY KEY (component, version),
    FOREIGN KEY (component, version) REFERENCES versions (component, name)
);

-- `code` is the exit code, `why` what was said with one that is not 0.
CREATE TABLE audit (
    number  BIGINT NOT NULL PRIMARY KEY,
    time    BIGINT NOT NULL,
    login   TEXT   NOT NULL,
    who     TEXT   NOT NULL,
    address TEXT   NOT NULL,
    command TEXT   NOT NULL,
    code    BIGINT NOT NULL,
    why     TEXT   NOT NULL
);
CREATE INDEX audit_by_time ON audit (time);
INSERT INTO counters (name, value) VALUES ('audit', 0);

CREATE TABLE notes (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE INDEX state_layers_by_digest ON state_layers (digest);
