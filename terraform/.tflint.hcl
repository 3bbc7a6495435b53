# make terraform-tools builds tflint and Google's rules; make terraform-test runs them
plugin "terraform" {
  enabled = true
  preset  = "all"
}

# values of arguments: machine types, members, what each enumeration takes
plugin "google" {
  enabled = true
}

# a module is one noun, and its files are named for what stands in them
rule "terraform_standard_module_structure" {
  enabled = false
}
