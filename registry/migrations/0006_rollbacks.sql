-- The state that a rollback made current again. From there on a rollback without a number goes
-- further back, and never to what was rolled back from.
ALTER TABLE states ADD COLUMN back_to BIGINT;

-- Of rollbacks made before: the newest earlier state with the same tree.
UPDATE states SET back_to = (
    SELECT MAX(earlier.number) FROM states AS earlier
    WHERE earlier.configuration = states.configuration
      AND earlier.number < states.number AND earlier.hash = states.hash
) WHERE command LIKE 'rollback %';
