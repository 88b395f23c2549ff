-- The objects in a bucket. The table is empty if the blobs are files in the registry's directory.
-- `place` is the key in the bucket after the prefix, and is used only once. Each row is written
-- before its object, and deleted after it. `since` is when the object got its state, or when it was
-- last uploaded or bound, by the clock of the database. `registry` is the one that writes the
-- object, `upload_id` is the unfinished upload in parts, `uploader` is the key of the ssh client.
-- `checked` says that agents can unpack the archive.
CREATE TABLE objects (
    place     TEXT    NOT NULL PRIMARY KEY,
    digest    TEXT    NOT NULL,
    bytes     BIGINT  NOT NULL,
    state     TEXT    NOT NULL
        CHECK (state IN ('writing', 'staged', 'live', 'condemned', 'deleting', 'damaged')),
    since     BIGINT  NOT NULL,
    registry  TEXT    NOT NULL,
    upload_id TEXT,
    uploader  TEXT    NOT NULL,
    checked   BOOLEAN NOT NULL
);
CREATE INDEX objects_by_digest ON objects (digest, state);
CREATE INDEX objects_in_motion ON objects (state, since) WHERE state <> 'live';
