//! The ssh and sftp client.
