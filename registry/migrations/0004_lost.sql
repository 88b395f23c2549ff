-- A state that was imported without the files of its layers, which were removed long ago:
-- it is shown, and is no target of a rollback, so that nothing looks for its files.
ALTER TABLE states ADD COLUMN lost BOOLEAN NOT NULL DEFAULT FALSE;
