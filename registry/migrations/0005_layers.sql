-- What the blobs of container images were made from: the sha256 of an image's layer without
-- its compression, that of what was removed from it, and how the blob is compressed. Who
-- imports the same layer again asks here first. `asked` is when it was answered last: a blob
-- that somebody counts on stays for a while.
CREATE TABLE layers (
    diff_id     TEXT   NOT NULL,
    removals    TEXT   NOT NULL,
    compression TEXT   NOT NULL,
    digest      TEXT   NOT NULL REFERENCES blobs (digest),
    asked       BIGINT NOT NULL,
    PRIMARY KEY (diff_id, removals, compression)
);
CREATE INDEX layers_by_digest ON layers (digest);
