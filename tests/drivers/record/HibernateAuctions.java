import java.io.Serializable;
import java.math.BigDecimal;
import java.net.Socket;
import java.sql.*;
import java.util.*;
import javax.persistence.*;
import javax.persistence.Entity;
import javax.persistence.Table;
import javax.persistence.Version;
import org.hibernate.*;
import org.hibernate.annotations.BatchSize;
import org.hibernate.annotations.ForeignKey;
import org.hibernate.cfg.Configuration;
import org.hibernate.criterion.*;

/** An auction house on Hibernate, with batches that the driver rewrites, and on plain JDBC; to be recorded. */
public final class HibernateAuctions {
    @Entity @Table(name = "hib_account")
    public static class Account {
        @Id @GeneratedValue(strategy = GenerationType.SEQUENCE, generator = "account")
        @SequenceGenerator(name = "account", sequenceName = "hib_account_seq", allocationSize = 50) public Long id;
        @Column(nullable = false) public String email;
        public String name;
        @Column(precision = 12, scale = 2) public BigDecimal balance = BigDecimal.ZERO;
    }

    @Entity @Table(name = "hib_category")
    public static class Category {
        @Id @GeneratedValue(strategy = GenerationType.SEQUENCE, generator = "category")
        @SequenceGenerator(name = "category", sequenceName = "hib_category_seq", allocationSize = 50) public Long id;
        @Column(unique = true) public String slug;
        public String name;
        @ManyToOne(fetch = FetchType.LAZY) public Category parent;
    }

    @Entity @Table(name = "hib_auction")
    public static class Auction {
        @Id @GeneratedValue(strategy = GenerationType.SEQUENCE, generator = "auction")
        @SequenceGenerator(name = "auction", sequenceName = "hib_auction_seq", allocationSize = 50) public Long id;
        @Version public int version;
        @ManyToOne(fetch = FetchType.LAZY, optional = false) @ForeignKey(name = "none") public Account seller;
        @ManyToOne(fetch = FetchType.LAZY, optional = false) public Category category;
        public String title;
        @Column(precision = 12, scale = 2) public BigDecimal price;
        @Enumerated(EnumType.STRING) public State state = State.OPEN;
        @Temporal(TemporalType.TIMESTAMP) public java.util.Date ends;
        @OneToMany(mappedBy = "auction", cascade = CascadeType.ALL) @OrderBy("amount desc") @BatchSize(size = 5)
        public List<Bid> bids = new ArrayList<Bid>();
    }

    public enum State { OPEN, SOLD, CLOSED }

    @Entity @Table(name = "hib_bid")
    public static class Bid {
        @Id @GeneratedValue(strategy = GenerationType.SEQUENCE, generator = "bid")
        @SequenceGenerator(name = "bid", sequenceName = "hib_bid_seq", allocationSize = 50) public Long id;
        @ManyToOne(fetch = FetchType.LAZY, optional = false) public Auction auction;
        @ManyToOne(fetch = FetchType.LAZY, optional = false) @ForeignKey(name = "none") public Account bidder;
        @Column(precision = 12, scale = 2) public BigDecimal amount;
        @Temporal(TemporalType.TIMESTAMP) public java.util.Date placed;
    }

    @Entity @Table(name = "hib_comment")
    public static class Comment {
        @Id @GeneratedValue(strategy = GenerationType.IDENTITY) public Long id;
        @ManyToOne(fetch = FetchType.LAZY, optional = false) public Auction auction;
        public String body;
    }

    private static long clock = 1930132800000L;

    /** A minute later with each look: a recording does not depend on when it is made. */
    private static java.util.Date now() {
        return new java.util.Date(clock += 60000);
    }

    private static void scene(String name) throws Exception {
        try (Socket socket = new Socket(System.getenv("PGHOST"), Integer.parseInt(System.getenv("PGPORT")))) {
            socket.getOutputStream().write(("MARK " + name + "\n").getBytes("UTF-8"));
            socket.getInputStream().read();
        }
    }

    private static String url() {
        Map<String, String> env = System.getenv();
        return "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE")
            + "?reWriteBatchedInserts=true&user=" + env.get("PGUSER") + "&password=" + env.getOrDefault("PGPASSWORD", "");
    }

    public static void main(String[] arguments) throws Exception {
        schema();
        Configuration configuration = new Configuration()
            .setProperty("hibernate.connection.url", url())
            .setProperty("hibernate.connection.driver_class", "org.postgresql.Driver")
            .setProperty("hibernate.dialect", "org.hibernate.dialect.PostgreSQLDialect")
            .setProperty("hibernate.connection.pool_size", "2")
            .setProperty("hibernate.jdbc.batch_size", "20").setProperty("hibernate.jdbc.batch_versioned_data", "true")
            .setProperty("hibernate.order_inserts", "true").setProperty("hibernate.order_updates", "true")
            .setProperty("hibernate.id.new_generator_mappings", "true")
            .setProperty("hibernate.temp.use_jdbc_metadata_defaults", "false").setProperty("hibernate.jdbc.use_scrollable_resultset", "true")
            .setProperty("hibernate.jdbc.use_get_generated_keys", "true");
        for (Class<?> entity : Arrays.asList(Account.class, Category.class, Auction.class, Bid.class, Comment.class)) {
            configuration.addAnnotatedClass(entity);
        }
        scene("start");
        SessionFactory factory = configuration.buildSessionFactory();
        Session session = factory.openSession();
        signUp(session);
        auctions(session);
        search(session);
        bids(session);
        reports(session);
        end(session);
        session.close();
        factory.close();
        jdbc();
    }

    private static void schema() throws Exception {
        scene("schema");
        try (Connection connection = DriverManager.getConnection(url()); Statement statement = connection.createStatement()) {
            for (String sql : Arrays.asList(
                "create table hib_account (id int8 not null, email varchar(255) not null, name varchar(255), balance numeric(12, 2), primary key (id))",
                "create table hib_category (id int8 not null, slug varchar(255) unique, name varchar(255), parent_id int8, primary key (id))",
                "create table hib_auction (id int8 not null, version int4 not null, seller_id int8 not null, category_id int8 not null, "
                    + "title varchar(255), price numeric(12, 2), state varchar(255), ends timestamp, primary key (id))",
                "create table hib_bid (id int8 not null, auction_id int8 not null, bidder_id int8 not null, amount numeric(12, 2), "
                    + "placed timestamp, primary key (auction_id, id))",
                "create table hib_comment (id bigserial not null, auction_id int8 not null, body varchar(255), primary key (id))",
                "create table hib_watcher (auction_id int8 not null, account_id int8 not null, primary key (auction_id, account_id))",
                "alter table hib_category add constraint FK1 foreign key (parent_id) references hib_category",
                "alter table hib_auction add constraint FK2 foreign key (category_id) references hib_category",
                "alter table hib_bid add constraint FK3 foreign key (auction_id) references hib_auction",
                "alter table hib_comment add constraint FK4 foreign key (auction_id) references hib_auction",
                "create index hib_account_email on hib_account (email)")) {
                statement.execute(sql);
            }
            int number = 0;
            for (String table : Arrays.asList("account", "category", "auction", "bid")) {
                statement.execute("create sequence hib_" + table + "_seq start " + (++number * 10000000L + 1) + " increment 50");
            }
            statement.execute("select setval('hib_comment_id_seq', 50000000)");
        }
    }

    private static void signUp(Session session) throws Exception {
        scene("sign up");
        Transaction transaction = session.beginTransaction();
        for (int number = 0; number < 30; number++) {
            Account account = new Account();
            account.email = "account" + number + "@example.com";
            account.name = "Account " + number % 7;
            session.save(account);
        }
        Category art = category(session, "art", null), home = category(session, "home", null);
        for (String slug : Arrays.asList("prints", "paintings")) category(session, slug, art);
        for (String slug : Arrays.asList("clocks", "lamps", "vases")) category(session, slug, home);
        transaction.commit();
        transaction = session.beginTransaction();
        session.createQuery("from HibernateAuctions$Account where email = :email").setString("email", "account3@example.com").uniqueResult();
        session.createQuery("update HibernateAuctions$Account set balance = balance + 50 where name = 'Account 3'").executeUpdate();
        transaction.commit();
    }

    private static Category category(Session session, String slug, Category parent) {
        Category category = new Category();
        category.slug = slug;
        category.name = slug.toUpperCase();
        category.parent = parent;
        session.save(category);
        return category;
    }

    @SuppressWarnings("unchecked")
    private static void auctions(Session session) throws Exception {
        scene("list auctions");
        Transaction transaction = session.beginTransaction();
        List<Account> sellers = session.createCriteria(Account.class).addOrder(Order.asc("id")).setMaxResults(5).list();
        List<Category> categories = session.createCriteria(Category.class).addOrder(Order.asc("slug")).list();
        for (int number = 0; number < 45; number++) {
            Auction auction = new Auction();
            auction.seller = sellers.get(number % 5);
            auction.category = categories.get(number % categories.size());
            auction.title = "Lot " + (char) ('A' + number % 26) + " " + number + ", it's \u00dcn\u00efcode";
            auction.price = BigDecimal.valueOf(100 + 25 * number, 2);
            auction.ends = new java.util.Date(clock + 86400000L * (number % 9));
            session.save(auction);
        }
        transaction.commit();
        scene("change auctions");
        for (int round = 0; round < 3; round++) {
            transaction = session.beginTransaction();
            List<Auction> changed = session.createQuery("from HibernateAuctions$Auction where title like :title order by id")
                .setString("title", "Lot " + (char) ('A' + round) + "%").list();
            for (Auction auction : changed) auction.price = auction.price.add(BigDecimal.ONE);
            transaction.commit();
        }
        transaction = session.beginTransaction();
        session.createQuery("update HibernateAuctions$Auction set price = price * 2 where state = :state and price < 3")
            .setParameter("state", State.OPEN).executeUpdate();
        session.createSQLQuery("update hib_auction set title = title || '!' where category_id in (select id from hib_category where slug = ?)")
            .setString(0, "vases").executeUpdate();
        transaction.commit();
        session.clear();
    }

    private static void search(Session session) throws Exception {
        scene("search");
        Transaction transaction = session.beginTransaction();
        for (int page = 0; page < 7; page++) {
            session.createCriteria(Auction.class).add(Restrictions.eq("state", State.OPEN)).addOrder(Order.desc("ends")).addOrder(Order.asc("id"))
                .setFirstResult(page * 6).setMaxResults(6).list();
        }
        session.createCriteria(Auction.class).add(Restrictions.ilike("title", "%lot b%")).addOrder(Order.asc("title")).list();
        session.createCriteria(Auction.class).createAlias("category", "c").add(Restrictions.in("c.slug", new String[] {"clocks", "lamps"}))
            .add(Restrictions.between("price", BigDecimal.valueOf(3), BigDecimal.valueOf(9))).addOrder(Order.asc("c.slug")).addOrder(Order.asc("title")).list();
        session.createCriteria(Auction.class).setFetchMode("seller", FetchMode.JOIN).setFetchMode("category", FetchMode.JOIN)
            .addOrder(Order.asc("title")).setMaxResults(4).list();
        session.createQuery("select a.title, s.name from HibernateAuctions$Auction a join a.seller s where s.name in ('Account 1', 'Account 2') order by a.title").list();
        session.createQuery("select count(*) from HibernateAuctions$Auction where ends > :now").setTimestamp("now", now()).uniqueResult();
        session.createQuery("select distinct c.name from HibernateAuctions$Auction a join a.category c order by c.name").list();
        transaction.commit();
        session.clear();
    }

    @SuppressWarnings("unchecked")
    private static void bids(Session session) throws Exception {
        scene("place bids");
        List<Long> keys = session.createQuery("select id from HibernateAuctions$Auction order by title").setMaxResults(9).list();
        List<Account> bidders = session.createQuery("from HibernateAuctions$Account order by id").setMaxResults(6).list();
        for (int number = 0; number < 24; number++) {
            Transaction transaction = session.beginTransaction();
            Auction auction = (Auction) session.get(Auction.class, (Serializable) keys.get(number * 7 % 9), LockOptions.UPGRADE);
            BigDecimal best = (BigDecimal) session.createQuery("select max(amount) from HibernateAuctions$Bid where auction = :auction")
                .setEntity("auction", auction).uniqueResult();
            Bid bid = new Bid();
            bid.auction = auction;
            bid.bidder = bidders.get(number % 6);
            bid.amount = (best == null ? auction.price : best).add(BigDecimal.valueOf(1 + number % 3));
            bid.placed = now();
            session.save(bid);
            auction.price = bid.amount;
            transaction.commit();
        }
        scene("comments");
        Transaction transaction = session.beginTransaction();
        for (int number = 0; number < 12; number++) {
            Comment comment = new Comment();
            comment.auction = (Auction) session.load(Auction.class, keys.get(number % 4));
            comment.body = "Comment " + number;
            session.save(comment);
        }
        transaction.commit();
        session.clear();
        scene("a lock in vain");
        transaction = session.beginTransaction();
        session.createQuery("from HibernateAuctions$Auction a where a.id = :id").setLong("id", keys.get(0)).setLockOptions(LockOptions.UPGRADE).uniqueResult();
        session.get(Auction.class, (Serializable) keys.get(1), new LockOptions(LockMode.UPGRADE_NOWAIT));
        session.lock(session.load(Auction.class, keys.get(2)), LockMode.PESSIMISTIC_READ);
        transaction.rollback();
        session.clear();
    }

    @SuppressWarnings("unchecked")
    private static void reports(Session session) throws Exception {
        scene("dashboard and reports");
        Transaction transaction = session.beginTransaction();
        List<Auction> listed = session.createQuery("from HibernateAuctions$Auction order by title").setMaxResults(12).list();
        for (Auction auction : listed) Hibernate.initialize(auction.bids);
        session.createQuery("select distinct a from HibernateAuctions$Auction a left join fetch a.bids where a.title like 'Lot A%' order by a.title").list();
        session.createQuery("select a.state, count(*), sum(a.price), avg(a.price) from HibernateAuctions$Auction a group by a.state").list();
        session.createQuery("select c.slug, count(a) from HibernateAuctions$Auction a right join a.category c group by c.slug order by c.slug").list();
        session.createQuery("select b.bidder.name, sum(b.amount), count(b) from HibernateAuctions$Bid b group by b.bidder.name having count(b) > 3 order by sum(b.amount) desc").list();
        session.createQuery("select a.title, (select max(b.amount) from HibernateAuctions$Bid b where b.auction = a) from HibernateAuctions$Auction a "
            + "where exists (select b.id from HibernateAuctions$Bid b where b.auction = a and b.amount > 5) order by a.title").list();
        session.createQuery("from HibernateAuctions$Auction a where size(a.bids) > 2 order by a.title").list();
        session.createCriteria(Bid.class).setProjection(Projections.projectionList().add(Projections.rowCount()).add(Projections.max("amount"))
            .add(Projections.min("amount")).add(Projections.countDistinct("auction"))).list();
        session.createCriteria(Bid.class).setProjection(Projections.projectionList().add(Projections.groupProperty("auction")).add(Projections.max("amount"), "best"))
            .addOrder(Order.desc("best")).addOrder(Order.asc("auction")).list();
        session.createSQLQuery("select title, rank() over (order by price desc) as place from hib_auction where price > 4 order by place, title").list();
        ScrollableResults rows = session.createQuery("from HibernateAuctions$Bid order by amount, placed").setFetchSize(5).scroll(ScrollMode.FORWARD_ONLY);
        while (rows.next()) rows.get(0);
        rows.close();
        transaction.commit();
        session.clear();
    }

    @SuppressWarnings("unchecked")
    private static void end(Session session) throws Exception {
        scene("end of auctions");
        Transaction transaction = session.beginTransaction();
        List<Auction> over = session.createQuery("from HibernateAuctions$Auction where ends < :then order by id")
            .setTimestamp("then", new java.util.Date(1930132800000L + 2 * 86400000L)).list();
        for (Auction auction : over) auction.state = auction.bids.isEmpty() ? State.CLOSED : State.SOLD;
        transaction.commit();
        session.clear();
        scene("delete");
        transaction = session.beginTransaction();
        session.createQuery("delete from HibernateAuctions$Comment where body = 'Comment 3'").executeUpdate();
        session.createQuery("delete from HibernateAuctions$Comment where auction in (from HibernateAuctions$Auction where title like 'Lot A%')").executeUpdate();
        List<Auction> gone = session.createQuery("from HibernateAuctions$Auction where title like 'Lot Q%' order by id").list();
        for (Auction auction : gone) session.delete(auction);
        transaction.commit();
    }

    /** What Hibernate does not use: generated keys of a batch, upserts, fetch sizes, savepoints, metadata. */
    private static void jdbc() throws Exception {
        scene("jdbc");
        try (Connection connection = DriverManager.getConnection(url())) {
            List<Long> keys = new ArrayList<>();
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                ResultSet rows = statement.executeQuery("select id from hib_auction order by title limit 6");
                while (rows.next()) keys.add(rows.getLong(1));
            }
            try (PreparedStatement insert = connection.prepareStatement("insert into hib_comment (auction_id, body) values (?, ?)",
                    Statement.RETURN_GENERATED_KEYS)) {
                for (int number = 0; number < 8; number++) {
                    insert.setLong(1, keys.get(number % 6));
                    insert.setString(2, "batch " + number);
                    insert.addBatch();
                }
                insert.executeBatch();
                insert.getGeneratedKeys();
            }
            connection.commit();
            for (int round = 0; round < 2; round++) {
                try (PreparedStatement upsert = connection.prepareStatement(
                        "insert into hib_watcher (auction_id, account_id) values (?, ?) on conflict do nothing")) {
                    for (int number = 0; number < 37; number++) {
                        upsert.setLong(1, keys.get(number % 6));
                        upsert.setLong(2, number);
                        upsert.addBatch();
                    }
                    upsert.executeBatch();
                }
            }
            connection.commit();
            Savepoint savepoint = connection.setSavepoint("before");
            try (PreparedStatement insert = connection.prepareStatement("insert into hib_watcher values (?, ?)")) {
                insert.setLong(1, keys.get(0));
                insert.setLong(2, 0);
                insert.executeUpdate();
            } catch (SQLException expected) {
                connection.rollback(savepoint);
            }
            try (PreparedStatement page = connection.prepareStatement("select auction_id, account_id from hib_watcher order by auction_id, account_id")) {
                page.setFetchSize(10);
                ResultSet rows = page.executeQuery();
                while (rows.next()) rows.getLong(2);
            }
            try (PreparedStatement update = connection.prepareStatement("update hib_auction set price = price + ? where id = ?")) {
                for (Long key : keys) {
                    update.setBigDecimal(1, BigDecimal.ONE);
                    update.setLong(2, key);
                    update.addBatch();
                }
                update.executeBatch();
            }
            try (PreparedStatement any = connection.prepareStatement("select title from hib_auction where id = any (?) order by title")) {
                any.setArray(1, connection.createArrayOf("bigint", keys.toArray()));
                any.executeQuery();
            }
            connection.commit();
            scene("metadata");
            connection.setAutoCommit(true);
            DatabaseMetaData metadata = connection.getMetaData();
            metadata.getTables(null, "public", "hib%", new String[] {"TABLE"});
            metadata.getColumns(null, "public", "hib_auction", null);
            metadata.getPrimaryKeys(null, "public", "hib_bid");
            metadata.getImportedKeys(null, "public", "hib_bid");
            metadata.getExportedKeys(null, "public", "hib_auction");
            metadata.getIndexInfo(null, "public", "hib_bid", false, false);
        }
    }
}
