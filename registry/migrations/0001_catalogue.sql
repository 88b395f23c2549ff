-- The catalogue: components, their versions, configurations and every state that a
-- configuration has had. Times are nanoseconds since 1970, digests 64 hex digits,
-- numbers are given by the program: nothing here depends on SQLite.

CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('version', 0);

CREATE TABLE components (
    name TEXT NOT NULL PRIMARY KEY
);

-- "Most recent" is by number, never by time.
CREATE TABLE versions (
    component TEXT   NOT NULL REFERENCES components (name),
    name      TEXT   NOT NULL,
    digest    TEXT   NOT NULL,
    created   BIGINT NOT NULL,
    number    BIGINT NOT NULL UNIQUE,
    PRIMARY KEY (component, name)
);
CREATE INDEX versions_by_digest ON versions (digest);

CREATE TABLE configurations (
    name    TEXT   NOT NULL PRIMARY KEY,
    current BIGINT NOT NULL
);

CREATE TABLE states (
    configuration TEXT   NOT NULL REFERENCES configurations (name),
    number        BIGINT NOT NULL,
    hash          TEXT   NOT NULL,
    modified      BIGINT NOT NULL,
    who           TEXT   NOT NULL,
    command       TEXT   NOT NULL,
    PRIMARY KEY (configuration, number)
);

CREATE TABLE state_layers (
    configuration TEXT   NOT NULL,
    number        BIGINT NOT NULL,
    position      BIGINT NOT NULL,
    component     TEXT   NOT NULL,
    version       TEXT   NOT NULL,
    digest        TEXT   NOT NULL,
    created       BIGINT NOT NULL,
    PRIMARY KEY (configuration, number, position),
    FOREIGN KEY (configuration, number) REFERENCES states (configuration, number)
);
CREATE INDEX state_layers_by_component ON state_layers (component, version);
