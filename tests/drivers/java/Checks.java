import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;

/** An auction application on JDBC: prepared statements, batches, fetch sizes, savepoints, COPY, metadata. */
public final class Checks {
    private interface Check { void run(Connection connection) throws Exception; }

    private static final Map<String, Check> CHECKS = new LinkedHashMap<>();

    static {
        CHECKS.put("schema", Checks::schema);
        CHECKS.put("insert returning", Checks::insertReturning);
        CHECKS.put("generated keys", Checks::generatedKeys);
        CHECKS.put("prepared", Checks::prepared);
        CHECKS.put("transaction", Checks::transaction);
        CHECKS.put("savepoint", Checks::savepoint);
        CHECKS.put("batch", Checks::batch);
        CHECKS.put("fetch size", Checks::fetchSize);
        CHECKS.put("copy", Checks::copy);
        CHECKS.put("errors", Checks::errors);
        CHECKS.put("metadata", Checks::metadata);
        CHECKS.put("several results", Checks::severalResults);
        CHECKS.put("types", Checks::types);
        CHECKS.put("read only", Checks::readOnly);
        CHECKS.put("statement after DDL", Checks::afterDdl);
    }

    public static void main(String[] arguments) throws Exception {
        int passed = 0, failed = 0;
        for (String options : List.of("", "?preferQueryMode=simple", "?prepareThreshold=1&binaryTransfer=true")) {
            for (Map.Entry<String, Check> check : CHECKS.entrySet()) {
                try (Connection connection = connect(options)) {
                    check.getValue().run(connection);
                    passed++;
                } catch (Exception | AssertionError error) {
                    failed++;
                    System.err.println("FAILED " + check.getKey() + " " + options);
                    error.printStackTrace();
                }
            }
        }
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private static Connection connect(String options) throws SQLException {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        return DriverManager.getConnection(url + options, env.get("PGUSER"), env.getOrDefault("PGPASSWORD", ""));
    }

    private static void equal(Object got, Object want) {
        if (!Objects.equals(got, want)) throw new AssertionError("got " + got + ", want " + want);
    }

    private static void schema(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String sql : List.of(
                "drop table if exists jdbc_bids", "drop table if exists jdbc_auctions", "drop table if exists jdbc_notes",
                "create table jdbc_auctions (auction_id bigint primary key, title text not null, price numeric(12,2) default 0)",
                "create table jdbc_bids (auction_id bigint references jdbc_auctions, bid_no int, amount numeric(12,2), primary key (auction_id, bid_no))",
                "create table jdbc_notes (id serial primary key, note text)")) statement.execute(sql);
        }
    }

    private static void insertReturning(Connection connection) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement(
                "insert into jdbc_auctions (auction_id, title) values (?, ?) returning auction_id, price")) {
            for (long auction = 1; auction <= 20; auction++) {
                insert.setLong(1, auction);
                insert.setString(2, "title " + auction);
                try (ResultSet rows = insert.executeQuery()) {
                    rows.next();
                    equal(rows.getLong(1), auction);
                    equal(rows.getBigDecimal(2), new BigDecimal("0.00"));
                }
            }
        }
    }

    private static void generatedKeys(Connection connection) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement(
                "insert into jdbc_notes (note) values (?)", Statement.RETURN_GENERATED_KEYS)) {
            insert.setString(1, "note");
            equal(insert.executeUpdate(), 1);
            try (ResultSet keys = insert.getGeneratedKeys()) {
                equal(keys.next(), true);
                equal(keys.getInt("id") > 0, true);
            }
        }
    }

    private static void prepared(Connection connection) throws SQLException {
        try (PreparedStatement select = connection.prepareStatement("select title from jdbc_auctions where auction_id = ?")) {
            for (int round = 0; round < 30; round++) {
                long auction = round % 20 + 1;
                select.setLong(1, auction);
                try (ResultSet rows = select.executeQuery()) {
                    equal(rows.next(), true);
                    equal(rows.getString(1), "title " + auction);
                    equal(rows.next(), false);
                }
            }
        }
    }

    private static void transaction(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        update(connection, "insert into jdbc_bids values (?, ?, ?)", 2L, 1, new BigDecimal("5.00"));
        update(connection, "update jdbc_auctions set price = ? where auction_id = ?", new BigDecimal("5.00"), 2L);
        connection.commit();
        update(connection, "delete from jdbc_bids where auction_id = ?", 2L);
        connection.rollback();
        equal(value(connection, "select count(*) from jdbc_bids where auction_id = ?", 2L), 1L);
        connection.commit();
    }

    private static void savepoint(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        update(connection, "insert into jdbc_bids values (?, ?, ?)", 3L, 1, BigDecimal.ONE);
        Savepoint savepoint = connection.setSavepoint("inner");
        try {
            update(connection, "insert into jdbc_bids values (?, ?, ?)", 3L, 1, BigDecimal.TEN);
            throw new AssertionError("no error");
        } catch (SQLException error) {
            equal(error.getSQLState(), "23505");
        }
        connection.rollback(savepoint);
        connection.commit();
        equal(value(connection, "select amount from jdbc_bids where auction_id = ? and bid_no = 1", 3L), new BigDecimal("1.00"));
        connection.commit();
    }

    private static void batch(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("insert into jdbc_bids values (?, ?, ?)")) {
            for (int bid = 1; bid <= 100; bid++) {
                insert.setLong(1, 4);
                insert.setInt(2, bid);
                insert.setBigDecimal(3, new BigDecimal(bid));
                insert.addBatch();
            }
            equal(Arrays.stream(insert.executeBatch()).filter(n -> n == 1).count(), 100L);
        }
        connection.commit();
        equal(value(connection, "select count(*) from jdbc_bids where auction_id = ?", 4L), 100L);
        connection.commit();
    }

    private static void fetchSize(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement select = connection.prepareStatement("select bid_no from jdbc_bids where auction_id = ? order by bid_no")) {
            select.setFetchSize(7);
            select.setLong(1, 4);
            int seen = 0;
            try (ResultSet rows = select.executeQuery()) {
                while (rows.next()) equal(rows.getInt(1), ++seen);
            }
            equal(seen, 100);
        }
        connection.commit();
    }

    private static void copy(Connection connection) throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int auction = 1001; auction <= 1100; auction++) lines.append(auction).append("\tcopied ").append(auction).append('\n');
        var api = connection.unwrap(PGConnection.class).getCopyAPI();
        equal(api.copyIn("copy jdbc_auctions (auction_id, title) from stdin", new StringReader(lines.toString())), 100L);
        equal(value(connection, "select title from jdbc_auctions where auction_id = ?", 1050L), "copied 1050");
        StringWriter out = new StringWriter();
        api.copyOut("copy jdbc_auctions (auction_id) to stdout", out);
        equal(out.toString().lines().count(), 120L);
    }

    private static void errors(Connection connection) throws SQLException {
        for (String[] pair : new String[][] {{"select 1/0", "22012"}, {"selec", "42601"}, {"select * from no_such_table", "42P01"}}) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(pair[0]);
                throw new AssertionError("no error");
            } catch (SQLException error) {
                equal(error.getSQLState(), pair[1]);
            }
            equal(value(connection, "select 1"), 1);
        }
    }

    private static void metadata(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = metadata.getColumns(null, "public", "jdbc_bids", null)) {
            while (rows.next()) columns.add(rows.getString("COLUMN_NAME"));
        }
        equal(columns, List.of("auction_id", "bid_no", "amount"));
        try (ResultSet rows = metadata.getImportedKeys(null, "public", "jdbc_bids")) {
            equal(rows.next(), true);
            equal(rows.getString("PKTABLE_NAME"), "jdbc_auctions");
        }
    }

    private static void severalResults(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            equal(statement.execute("select 1; select 2"), true);
            equal(statement.getMoreResults(), true);
            try (ResultSet rows = statement.getResultSet()) {
                rows.next();
                equal(rows.getInt(1), 2);
            }
        }
    }

    private static void types(Connection connection) throws SQLException {
        equal(value(connection, "select ?::uuid", UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")).toString(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        equal(value(connection, "select ?::date", java.sql.Date.valueOf("2024-02-29")), java.sql.Date.valueOf("2024-02-29"));
        equal(value(connection, "select ?::boolean", true), true);
        equal(value(connection, "select ?::float8", 1.5d), 1.5d);
        Array array = connection.createArrayOf("int4", new Object[] {1, 2, null});
        try (PreparedStatement select = connection.prepareStatement("select ?::int[]")) {
            select.setArray(1, array);
            try (ResultSet rows = select.executeQuery()) {
                rows.next();
                equal(Arrays.asList((Object[]) rows.getArray(1).getArray()), Arrays.asList(1, 2, null));
            }
        }
    }

    private static void readOnly(Connection connection) throws SQLException {
        connection.setReadOnly(true);
        connection.setAutoCommit(false);
        equal(value(connection, "select title from jdbc_auctions where auction_id = ?", 5L), "title 5");
        try {
            update(connection, "update jdbc_auctions set price = 1 where auction_id = ?", 5L);
            throw new AssertionError("no error");
        } catch (SQLException error) {
            equal(error.getSQLState(), "25006");
        }
        connection.rollback();
        connection.setReadOnly(false);
        connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
        equal(value(connection, "select title from jdbc_auctions where auction_id = ?", 6L), "title 6");
        connection.commit();
    }

    private static void afterDdl(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("drop table if exists jdbc_changing");
            statement.execute("create table jdbc_changing (a int)");
            for (int round = 0; round < 8; round++) value(connection, "select count(*) from jdbc_changing where a = ?", 1);
            statement.execute("alter table jdbc_changing alter a type bigint");
            equal(value(connection, "select count(*) from jdbc_changing where a = ?", 1), 0L);
            statement.execute("drop table jdbc_changing");
        }
    }

    private static void update(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int n = 0; n < values.length; n++) statement.setObject(n + 1, values[n]);
            statement.executeUpdate();
        }
    }

    private static Object value(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int n = 0; n < values.length; n++) statement.setObject(n + 1, values[n]);
            try (ResultSet rows = statement.executeQuery()) {
                return rows.next() ? rows.getObject(1) : null;
            }
        }
    }
}
