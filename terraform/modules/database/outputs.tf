output "instances" {
  description = "Key -> `connection` for the Cloud SQL Auth Proxy (PROJECT:REGION:NAME), and the `database`."
  value = { for key, one in google_sql_database_instance.instance : key => {
    connection = one.connection_name
    database   = google_sql_database.database[key].name
  } }
}
