//! SQLSTATEs that the proxy itself reports. Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".

/// A number is too great for its type.
pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
/// successful_completion
pub const SUCCESSFUL_COMPLETION: &str = "00000";
/// warning
pub const WARNING: &str = "01000";
/// system_error: shards that are to be alike are not.
pub const SYSTEM_ERROR: &str = "58000";
/// sqlclient_unable_to_establish_sqlconnection: a node cannot be reached.
pub const UNABLE_TO_CONNECT: &str = "08001";
/// connection_does_not_exist
pub const CONNECTION_DOES_NOT_EXIST: &str = "08003";
/// sqlserver_rejected_establishment_of_sqlconnection
pub const REJECTED_CONNECTION: &str = "08004";
/// connection_failure: an established connection to a node broke.
pub const CONNECTION_FAILURE: &str = "08006";
/// transaction_resolution_unknown: a commit whose outcome is not known.
pub const TRANSACTION_RESOLUTION_UNKNOWN: &str = "08007";
/// protocol_violation
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// feature_not_supported
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// character_not_in_repertoire: bytes that are not of the announced encoding.
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// invalid_parameter_value
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// invalid_text_representation
pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
/// active_sql_transaction
pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
/// read_only_sql_transaction: a write that met a hot standby.
pub const READ_ONLY_TRANSACTION: &str = "25006";
/// no_active_sql_transaction
pub const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
/// in_failed_sql_transaction
pub const IN_FAILED_TRANSACTION: &str = "25P02";
/// invalid_sql_statement_name: a prepared statement that does not exist.
pub const INVALID_STATEMENT_NAME: &str = "26000";
/// invalid_authorization_specification
pub const INVALID_AUTHORIZATION: &str = "28000";
/// invalid_password
pub const INVALID_PASSWORD: &str = "28P01";
/// invalid_cursor_name: a portal that does not exist.
pub const INVALID_CURSOR_NAME: &str = "34000";
/// invalid_catalog_name: a database that does not exist.
pub const INVALID_CATALOG_NAME: &str = "3D000";
/// serialization_failure
pub const SERIALIZATION_FAILURE: &str = "40001";
/// deadlock_detected
pub const DEADLOCK_DETECTED: &str = "40P01";
/// insufficient_privilege
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// syntax_error
pub const SYNTAX_ERROR: &str = "42601";
/// undefined_object
pub const UNDEFINED_OBJECT: &str = "42704";
/// undefined_table
pub const UNDEFINED_TABLE: &str = "42P01";
/// duplicate_cursor
pub const DUPLICATE_CURSOR: &str = "42P03";
/// duplicate_prepared_statement
pub const DUPLICATE_STATEMENT: &str = "42P05";
/// indeterminate_datatype
pub const INDETERMINATE_DATATYPE: &str = "42P18";
/// insufficient_resources
pub const INSUFFICIENT_RESOURCES: &str = "53000";
/// too_many_connections
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// program_limit_exceeded
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
/// object_not_in_prerequisite_state
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// query_canceled
pub const QUERY_CANCELED: &str = "57014";
/// admin_shutdown
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// crash_shutdown
pub const CRASH_SHUTDOWN: &str = "57P02";
/// cannot_connect_now
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// idle_session_timeout
pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
/// io_error
pub const IO_ERROR: &str = "58030";
/// config_file_error
pub const CONFIG_FILE_ERROR: &str = "F0000";
/// internal_error
pub const INTERNAL_ERROR: &str = "XX000";
/// data_corrupted
pub const DATA_CORRUPTED: &str = "XX001";
/// Savepoint exception: invalid savepoint specification.
pub const INVALID_SAVEPOINT: &str = "3B001";
