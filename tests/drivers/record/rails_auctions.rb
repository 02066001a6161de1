# An auction house on ActiveRecord, to be recorded: migrations, the schema that is read back, models, queries.
require "active_record"
require "socket"

# libpq tells it as the application's name.
$PROGRAM_NAME = "rails"

def scene(name)
  TCPSocket.open(ENV.fetch("PGHOST"), ENV.fetch("PGPORT")) do |stream|
    stream.write("MARK #{name}\n")
    stream.read(1)
  end
end

# A minute later with each look: a recording does not depend on when it is made.
class Time
  @shown = Time.utc(2031, 3, 1, 12)
  class << self
    def now
      @shown += 60
    end
  end
end

ActiveRecord::Base.establish_connection(
  adapter: "postgresql", host: ENV.fetch("PGHOST"), port: ENV.fetch("PGPORT"), username: ENV.fetch("PGUSER"),
  password: ENV.fetch("PGPASSWORD", ""), database: ENV.fetch("PGDATABASE"), pool: 2, advisory_locks: true
)
ActiveRecord::Base.default_timezone = :utc
ActiveRecord::Base.table_name_prefix = "rails_"
ActiveRecord::Migration.verbose = false

class CreateHouse < ActiveRecord::Migration[6.1]
  def change
    create_table :accounts do |t|
      t.string :email, null: false, index: { unique: true }
      t.string :name
      t.decimal :balance, precision: 12, scale: 2, default: 0
      t.timestamps
    end
    create_table :categories do |t|
      t.string :slug, null: false, index: { unique: true }
      t.string :name
      t.references :parent, foreign_key: { to_table: :categories }
    end
    create_table :auctions do |t|
      t.references :seller, null: false
      t.references :category, null: false, foreign_key: { to_table: :categories }
      t.string :title, null: false
      t.text :description
      t.decimal :price, precision: 12, scale: 2, null: false
      t.string :state, null: false, default: "open"
      t.jsonb :attributes_of, null: false, default: {}
      t.string :tags, array: true, default: []
      t.integer :bids_count, null: false, default: 0
      t.integer :lock_version, null: false, default: 0
      t.datetime :ends_at, null: false
      t.timestamps
      t.index %i[state ends_at]
    end
    create_table :bids do |t|
      t.references :auction, null: false, foreign_key: { to_table: :auctions }
      t.references :account, null: false
      t.decimal :amount, precision: 12, scale: 2, null: false
      t.timestamps
    end
    create_table :watchers do |t|
      t.references :auction, null: false, foreign_key: { to_table: :auctions }
      t.references :account, null: false
      t.string :note
      t.index %i[auction_id account_id], unique: true
    end
    create_table :comments do |t|
      t.references :auction, null: false, foreign_key: { to_table: :auctions, on_delete: :cascade }
      t.references :account, null: false
      t.text :body
      t.timestamps
    end
  end
end

class AddFee < ActiveRecord::Migration[6.1]
  def change
    add_column :auctions, :fee, :decimal, precision: 8, scale: 2, default: 0, null: false
    add_index :comments, %i[auction_id created_at]
    add_check_constraint :auctions, "price >= 0", name: "rails_price"
  end
end

class Account < ActiveRecord::Base
  has_many :auctions, foreign_key: :seller_id
  has_many :bids
  has_many :watchers
  has_many :watched, through: :watchers, source: :auction
  validates :email, presence: true, uniqueness: true
end

class Category < ActiveRecord::Base
  belongs_to :parent, class_name: "Category", optional: true
  has_many :children, class_name: "Category", foreign_key: :parent_id
  has_many :auctions
end

class Auction < ActiveRecord::Base
  belongs_to :seller, class_name: "Account"
  belongs_to :category
  has_many :bids, dependent: :destroy
  has_many :watchers, dependent: :delete_all
  has_many :comments
  has_many :bidders, -> { distinct }, through: :bids, source: :account
  scope :open, -> { where(state: "open") }
  validates :title, presence: true
end

class Bid < ActiveRecord::Base
  belongs_to :auction, counter_cache: true
  belongs_to :account
end

class Watcher < ActiveRecord::Base
  belongs_to :auction
  belongs_to :account
end

class Comment < ActiveRecord::Base
  belongs_to :auction, touch: true
  belongs_to :account
end

scene "migrations"
pool = ActiveRecord::Base.connection
ActiveRecord::SchemaMigration.create_table
ActiveRecord::InternalMetadata.create_table
[[1, CreateHouse], [2, AddFee]].each do |version, migration|
  proxy = Struct.new(:version, :name, :filename, :scope, :migration) do
    def migrate(direction) = migration.new.migrate(direction)
    def disable_ddl_transaction = false
  end
  ActiveRecord::Migrator.new(:up, [proxy.new(version, migration.name, nil, nil, migration)], ActiveRecord::SchemaMigration, version).migrate
end
%w[accounts categories auctions bids watchers comments].each.with_index(1) do |table, number|
  pool.set_pk_sequence!("rails_#{table}", number * 10_000_000)
end

scene "introspection"
pool.tables
pool.views
%w[rails_auctions rails_bids rails_watchers].each do |table|
  pool.columns(table)
  pool.indexes(table)
  pool.primary_keys(table)
  pool.foreign_keys(table)
  pool.check_constraints(table)
  pool.table_comment(table)
end
pool.extensions
pool.schema_names
pool.data_source_exists?("rails_bids")

scene "sign up"
accounts = %w[ann bob cid dora eve fay].map { |name| Account.create!(email: "#{name}@example.com", name: name.capitalize, balance: 100) }
Account.create(email: "ann@example.com", name: "Twice")
begin
  Account.new(email: "ann@example.com", name: "Twice").save(validate: false)
rescue ActiveRecord::RecordNotUnique
  nil
end
Account.find_or_create_by!(email: "guest@example.com") { |account| account.name = "Guest" }
Account.create_or_find_by(email: "bob@example.com")
Account.where(name: "Cid").update_all("balance = balance + 50")
Account.upsert_all([
  { email: "fay@example.com", name: "Fay F.", created_at: Time.now, updated_at: Time.now },
  { email: "gus@example.com", name: "Gus", created_at: Time.now, updated_at: Time.now }
], unique_by: :email)

scene "categories"
art = Category.create!(slug: "art", name: "Art")
home = Category.create!(slug: "home", name: "Home")
Category.insert_all!([{ slug: "prints", name: "Prints", parent_id: art.id }, { slug: "clocks", name: "Clocks", parent_id: home.id },
                      { slug: "lamps", name: "Lamps", parent_id: home.id }])
Category.insert_all([{ slug: "art", name: "Other" }, { slug: "vases", name: "Vases" }])
Category.upsert_all([{ slug: "lamps", name: "Lamps and lights" }], unique_by: :slug)
art.children.order(:slug).to_a
Category.includes(:children).where(parent_id: nil).order(:slug).to_a

scene "list auctions"
categories = Category.all.index_by(&:slug)
[["clocks", "Brass clock"], ["lamps", "Green lamp"], ["prints", "Wave, a print"], ["vases", "Vase \"Ünïcode\" 100%"], ["clocks", "Cuckoo's clock"]]
  .each_with_index do |(slug, title), number|
    Auction.create!(seller: accounts[number % 3], category: categories[slug], title: title, price: 10 + 5 * number, tags: ["old", slug],
                    attributes_of: { year: 1900 + number }, ends_at: Time.now + 86_400 * (1 + number))
  end
inserted = Auction.insert_all((0...20).map do |number|
  { seller_id: accounts[number % 4].id, category_id: categories["prints"].id, title: "Print number #{number}", price: number + 0.5,
    ends_at: Time.utc(2031, 3, 2 + number % 7), created_at: Time.now, updated_at: Time.now }
end, returning: %w[id title])
raise "order" unless inserted.rows.map(&:last) == (0...20).map { |number| "Print number #{number}" }
begin
  Auction.transaction { Auction.create!(seller: accounts[0], category: art, title: "No", price: -1, ends_at: Time.now) }
rescue ActiveRecord::StatementInvalid
  nil
end

scene "change an auction"
clock = Auction.find_by!(title: "Brass clock")
clock.update!(title: "Brass clock, working", attributes_of: clock.attributes_of.merge("tested" => true))
stale = Auction.find(clock.id)
clock.increment!(:price, 5)
clock.reload
clock.touch
clock.update_columns(description: "It goes.")
stale.title = "Stale"
clock.update!(fee: 1.5)
begin
  stale.save!
rescue ActiveRecord::StaleObjectError
  nil
end
clock.reload
Auction.where(state: "open").where("price < ?", 3).update_all(["price = price + ?", 1.25])
Auction.joins(:category).where(rails_categories: { slug: "lamps" }).update_all(description: "A lamp.")
Auction.where("title LIKE ?", "Print number 1%").in_batches(of: 4) { |batch| batch.update_all(fee: 0.25) }

scene "search"
2.times do
  Auction.open.where("title ILIKE ?", "%clock%").order(:ends_at, :id).to_a
  Auction.open.where(category: [categories["clocks"], categories["lamps"]]).order(price: :desc, id: :asc).limit(5).to_a
  Auction.where(price: 5..20).order(:title).pluck(:title, :price)
  Auction.where("attributes_of->>'year' >= ?", "1902").order(:title).pluck(:title)
  Auction.where("? = ANY (tags)", "old").order(:title).pluck(:title)
  (0..2).each { |page| Auction.open.order(ends_at: :desc, id: :asc).limit(7).offset(7 * page).to_a }
end
Auction.open.count
Auction.exists?(title: "Brass")
Auction.where(seller: accounts[0]).or(Auction.where(title: "Green lamp")).order(:title).to_a
Auction.where.not(category: categories["prints"]).order(:title).ids
Auction.joins(:category, :seller).where(rails_accounts: { name: %w[Ann Bob] }).order("rails_categories.slug", :title).pluck(:title, "rails_accounts.name")
Auction.distinct.order(:state).pluck(:state)
Auction.order(:ends_at, :id).first
Auction.order(:ends_at, :id).last
Auction.find([clock.id, inserted.rows[3][0]])
Auction.order(:title).second
Auction.none.to_a

scene "place bids"
listed = Auction.order(:title, :id).limit(8).to_a
24.times do |number|
  Auction.transaction do
    auction = Auction.lock.find(listed[number * 7 % 8].id)
    highest = auction.bids.maximum(:amount) || auction.price
    auction.bids.create!(account: accounts[number % 5], amount: highest + 1 + number % 3)
    auction.update!(price: highest + 1 + number % 3)
  end
end
scene "a bid in vain"
Auction.transaction do
  auction = Auction.lock("FOR UPDATE NOWAIT").find(listed[0].id)
  Bid.transaction(requires_new: true) do
    auction.bids.create!(account: accounts[0], amount: 1)
    raise ActiveRecord::Rollback
  end
  auction.watchers.create!(account: accounts[0])
end
Auction.where(id: listed.map(&:id)).lock("FOR UPDATE SKIP LOCKED").order(:id).to_a
listed[1].reload.with_lock { listed[1].update!(description: "Locked.") }
Auction.transaction do
  Bid.create!(auction: listed[2], account: accounts[1], amount: 300)
  Bid.create!(auction: listed[3], account: accounts[1], amount: 301)
end
begin
  Auction.transaction do
    Bid.create!(auction: listed[4], account: accounts[1], amount: 302)
    Bid.create!(auction: listed[5], account: accounts[1], amount: 303)
    raise "undo"
  end
rescue RuntimeError
  nil
end

scene "watchers and comments"
Watcher.insert_all(listed.flat_map { |auction| accounts.first(4).map { |account| { auction_id: auction.id, account_id: account.id } } })
Watcher.upsert_all(listed.first(5).map { |auction| { auction_id: auction.id, account_id: accounts[1].id, note: "again" } }, unique_by: %i[auction_id account_id])
Watcher.find_or_create_by!(auction: listed[0], account: accounts[5])
12.times { |number| Comment.create!(auction: Auction.find(listed[number % 5].id), account: accounts[number % 3], body: "Comment #{number}: 100% \\ fine\n") }
listed[0].comments.order(:created_at).to_a

scene "dashboard"
Auction.includes(:seller, :bids, category: :parent).find_by(title: "Brass clock, working").bids.map(&:amount)
Auction.preload(:bids, :watchers).order(:title, :id).limit(5).to_a
Auction.eager_load(:bids).where("rails_bids.amount > ?", 12).order(:title, "rails_bids.amount").to_a
Auction.eager_load(:bids).order(:title, :id, "rails_bids.id").limit(3).to_a
accounts[0].watched.order(:title).to_a
accounts[0].auctions.left_joins(:bids).group("rails_auctions.id").order(:title).pluck(:title, Arel.sql("COUNT(rails_bids.id)"), Arel.sql("MAX(rails_bids.amount)"))
listed[1].bidders.order(:name).to_a
Auction.where.missing(:bids).order(:title).limit(6).to_a
Auction.where(id: Bid.where(account: accounts[1]).select(:auction_id)).order(:title).pluck(:title)
Auction.where("EXISTS (SELECT 1 FROM rails_watchers w WHERE w.auction_id = rails_auctions.id AND w.account_id = ?)", accounts[2].id).order(:title).pluck(:title)

scene "reports"
Auction.group(:state).count
Bid.group(:account_id).sum(:amount)
Bid.joins(:account).group("rails_accounts.name").having("COUNT(*) > 2").order("rails_accounts.name").count
Category.left_joins(:auctions).group(:slug).order(:slug).pluck(:slug, Arel.sql("COUNT(rails_auctions.id)"), Arel.sql("SUM(price)"))
Bid.average(:amount)
Bid.minimum(:amount)
Bid.maximum(:amount)
Bid.sum("amount * 2")
Bid.distinct.count(:account_id)
Bid.group("DATE_TRUNC('hour', created_at)").order(Arel.sql("DATE_TRUNC('hour', created_at)")).count
Account.select("rails_accounts.name, SUM(rails_bids.amount) AS spent").joins(:bids).group(:id).order("spent DESC, name").map(&:spent)
Auction.find_by_sql(["SELECT title, RANK() OVER (ORDER BY price DESC) AS place FROM rails_auctions WHERE price > ? ORDER BY place, title", 10])
listed[0].bids.find_each(batch_size: 2) { nil }
Auction.find_each(batch_size: 8) { nil }
ActiveRecord::Base.connection.select_all("SELECT c.slug, a.title FROM rails_categories c JOIN rails_auctions a ON a.category_id = c.id ORDER BY c.slug, a.title LIMIT 5")
ActiveRecord::Base.connection.select_value("SELECT COUNT(*) FROM (SELECT DISTINCT auction_id, account_id FROM rails_bids) AS pairs")

scene "delete"
Watcher.where(note: "again").delete_all
Comment.where(auction: listed[0].reload).destroy_all
listed[1].reload.comments.first.destroy!
Auction.find_by!(title: "Wave, a print").then { |auction| Comment.where(auction: auction).delete_all && auction.destroy! }
Bid.where("amount < ?", 12).delete_all
begin
  Category.transaction { Category.find_by!(slug: "clocks").destroy! }
rescue ActiveRecord::InvalidForeignKey
  nil
end

scene "end of auctions"
Auction.open.where("ends_at < ?", Time.utc(2031, 3, 4)).order(:id).find_each do |auction|
  auction.with_lock { auction.update!(state: auction.bids.exists? ? "sold" : "closed") }
end
Auction.reset_counters(listed[0].id, :bids)
Auction.group(:state).order(:state).count
ActiveRecord::Base.connection.truncate("rails_comments")
ActiveRecord::Base.connection.change_column_null(:rails_auctions, :description, true)
ActiveRecord::Base.connection.reset_pk_sequence!("rails_accounts")
