//! Derives of the `mlx` crate: `Module` for models, `Tree` for structs of arrays.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, Index, LitStr, parse_macro_input};

/// Walks every field in order, under its own name: parameters, layers, containers; plain values have nothing to visit.
///
/// `#[module(skip)]` leaves a field out, `#[module(name = "lm_head")]` renames it in paths, `#[module(flatten)]` adds
/// no name. On enums each variant's fields are visited without a name of their own.
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    module(input).unwrap_or_else(Error::into_compile_error).into()
}

/// Walks every field in order as a tree of arrays. `#[tree(skip)]` clones a field instead; such a struct cannot be frozen.
#[proc_macro_derive(Tree, attributes(tree))]
pub fn derive_tree(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    tree(input).unwrap_or_else(Error::into_compile_error).into()
}

#[derive(Default)]
struct Options {
    skip: bool,
    name: Option<String>,
}

fn options(field: &Field, attribute: &str) -> Result<Options, Error> {
    let mut options = Options::default();
    for attr in field.attrs.iter().filter(|a| a.path().is_ident(attribute)) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("skip") {
                options.skip = true;
            } else if meta.path.is_ident("flatten") {
                options.name = Some(String::new());
            } else if meta.path.is_ident("name") {
                options.name = Some(meta.value()?.parse::<LitStr>()?.value());
            } else {
                return Err(meta.error("expected `skip`, `flatten` or `name = \"...\"`"));
            }
            Ok(())
        })?;
    }
    Ok(options)
}

/// A field as it is walked: its pattern binding, name in paths, and type.
struct Walked {
    binding: syn::Ident,
    name: String,
    skip: bool,
    ty: syn::Type,
}

fn walk(fields: &Fields, attribute: &str) -> Result<Vec<Walked>, Error> {
    let one = |(i, field): (usize, &Field)| {
        let options = options(field, attribute)?;
        let name = field.ident.as_ref().map_or_else(|| i.to_string(), |n| n.to_string());
        Ok(Walked {
            binding: format_ident!("field_{}", i),
            name: options.name.unwrap_or_else(|| name.trim_start_matches("r#").to_string()),
            skip: options.skip,
            ty: field.ty.clone(),
        })
    };
    fields.iter().enumerate().map(one).collect()
}

/// `Path { a: field_0, .. }` for every variant of the type.
fn arms(input: &DeriveInput, attribute: &str) -> Result<Vec<(Tokens, Vec<Walked>, Tokens)>, Error> {
    let variant = |path: Tokens, fields: &Fields| {
        let walked = walk(fields, attribute)?;
        let members: Vec<Tokens> = fields
            .iter()
            .enumerate()
            .map(|(i, f)| match &f.ident {
                Some(ident) => quote!(#ident),
                None => {
                    let index = Index { index: i as u32, span: f.span() };
                    quote!(#index)
                }
            })
            .collect();
        let bindings = walked.iter().map(|w| &w.binding);
        let pattern = quote!(#path { #(#members: #bindings),* });
        let members = quote!(#(#members),*);
        Ok((pattern, walked, members))
    };
    match &input.data {
        Data::Struct(data) => Ok(vec![variant(quote!(Self), &data.fields)?]),
        Data::Enum(data) => data
            .variants
            .iter()
            .map(|v| {
                let ident = &v.ident;
                variant(quote!(Self::#ident), &v.fields)
            })
            .collect(),
        Data::Union(_) => Err(Error::new(input.span(), "unions cannot be walked")),
    }
}

fn module(input: DeriveInput) -> Result<Tokens, Error> {
    let ident = &input.ident;
    let is_enum = matches!(input.data, Data::Enum(_));
    let (mut visit, mut visit_mut, mut layers, mut modules, mut training) = (vec![], vec![], vec![], vec![], vec![]);
    let mut types = vec![];
    for (pattern, walked, _) in arms(&input, "module")? {
        let kept: Vec<&Walked> = walked.iter().filter(|w| !w.skip).collect();
        let bindings: Vec<_> = kept.iter().map(|w| &w.binding).collect();
        // a variant adds no name: one enum field holds one of several layers
        let names: Vec<String> =
            kept.iter().map(|w| if is_enum && w.name == "0" { String::new() } else { w.name.clone() }).collect();
        let ignored: Vec<_> = walked.iter().filter(|w| w.skip).map(|w| &w.binding).collect();
        types.extend(kept.iter().map(|w| w.ty.clone()));
        let ignore = quote!(#(let _ = #ignored;)*);
        visit.push(quote!(#pattern => { #ignore #(::mlx::nn::module::visit_field(#bindings, #names, path, f);)* }));
        visit_mut
            .push(quote!(#pattern => { #ignore #(::mlx::nn::module::visit_field_mut(#bindings, #names, path, f);)* }));
        layers
            .push(quote!(#pattern => { #ignore #(::mlx::nn::module::layers_field_mut(#bindings, #names, path, f);)* }));
        modules.push(quote!(#pattern => { #ignore #(::mlx::nn::module::modules_field(#bindings, #names, path, f);)* }));
        training.push(quote!(#pattern => { #ignore #(::mlx::nn::Module::set_training(#bindings, on);)* }));
    }
    let (params, args, clause) = bounded(&input, &types, quote!(::mlx::nn::Module));
    // an enum stands for the layer in it
    let itself = (!is_enum).then(|| quote!(f(path.as_str());));
    Ok(quote! {
        #[automatically_derived]
        #[allow(unused_variables)]
        impl #params ::mlx::nn::Module for #ident #args #clause {
            fn visit(&self, path: &mut ::mlx::nn::Path, f: &mut dyn FnMut(&str, &::mlx::nn::Param)) {
                match self { #(#visit)* }
            }
            fn visit_mut(&mut self, path: &mut ::mlx::nn::Path, f: &mut dyn FnMut(&str, &mut ::mlx::nn::Param)) {
                match self { #(#visit_mut)* }
            }
            fn layers_mut(&mut self, path: &mut ::mlx::nn::Path, f: &mut dyn FnMut(&str, ::mlx::nn::LayerMut<'_>)) {
                match self { #(#layers)* }
            }
            fn modules(&self, path: &mut ::mlx::nn::Path, f: &mut dyn FnMut(&str)) {
                #itself
                match self { #(#modules)* }
            }
            fn set_training(&mut self, on: bool) {
                match self { #(#training)* }
            }
        }
        #[automatically_derived]
        impl #params ::mlx::State for #ident #args #clause {
            fn arrays(&self, f: &mut dyn FnMut(&::mlx::Array)) {
                ::mlx::module_arrays(self, f);
            }
            fn arrays_mut(&mut self, f: &mut dyn FnMut(&mut ::mlx::Array)) {
                ::mlx::module_arrays_mut(self, f);
            }
        }
    })
}

/// The type's generics with the trait required of every type parameter that a walked field mentions.
fn bounded(input: &DeriveInput, types: &[syn::Type], bound: Tokens) -> (Tokens, Tokens, Tokens) {
    let (params, args, clause) = input.generics.split_for_impl();
    let mentions = |ty: &syn::Type| {
        let text = quote!(#ty).to_string();
        let mut names = input.generics.type_params().map(|p| p.ident.to_string());
        names.any(|n| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == n))
    };
    let generic: Vec<&syn::Type> = types.iter().filter(|ty| mentions(ty)).collect();
    let given = clause.into_iter().flat_map(|c| &c.predicates);
    (quote!(#params), quote!(#args), quote!(where #(#given,)* #(#generic: #bound,)*))
}

fn tree(input: DeriveInput) -> Result<Tokens, Error> {
    let ident = &input.ident;
    let (mut visit, mut map, mut types, mut skips) = (vec![], vec![], vec![], false);
    for (pattern, walked, members) in arms(&input, "tree")? {
        let kept: Vec<&Walked> = walked.iter().filter(|w| !w.skip).collect();
        let bindings = kept.iter().map(|w| &w.binding);
        let names = kept.iter().map(|w| &w.name);
        let ignored = walked.iter().filter(|w| w.skip).map(|w| &w.binding);
        skips |= kept.len() < walked.len();
        types.extend(kept.iter().map(|w| w.ty.clone()));
        visit.push(quote!(#pattern => {
            #(let _ = #ignored;)*
            #(path.enter(#names, |path| ::mlx::Tree::visit_arrays(#bindings, path, f));)*
        }));
        let members: Vec<Tokens> = split_members(&members);
        let values = walked.iter().map(|w| {
            let (binding, name) = (&w.binding, &w.name);
            if w.skip {
                quote!(::core::clone::Clone::clone(#binding))
            } else {
                quote!(path.enter(#name, |path| ::mlx::Tree::map_arrays(#binding, path, f)))
            }
        });
        let constructor = constructor(&pattern);
        map.push(quote!(#pattern => #constructor { #(#members: #values),* },));
    }
    let (params, args, clause) = bounded(&input, &types, quote!(::mlx::Tree));
    let freeze = if skips {
        quote!()
    } else {
        let (params, args, given) = input.generics.split_for_impl();
        let given = given.into_iter().flat_map(|c| &c.predicates);
        // every field must be able to; the `for` keeps a type that is not from being an error where nobody freezes it
        quote! {
            #[automatically_derived]
            unsafe impl #params ::mlx::Freeze for #ident #args
            where #(#given,)* Self: ::mlx::Tree, #(for<'freeze> #types: ::mlx::Freeze,)* {}
        }
    };
    Ok(quote! {
        #[automatically_derived]
        #[allow(unused_variables)]
        impl #params ::mlx::Tree for #ident #args #clause {
            fn visit_arrays(&self, path: &mut ::mlx::nn::Path, f: &mut dyn FnMut(&str, &::mlx::Array)) {
                match self { #(#visit)* }
            }
            fn map_arrays(&self, path: &mut ::mlx::nn::Path, f: &mut dyn FnMut(&str, &::mlx::Array) -> ::mlx::Array) -> Self {
                match self { #(#map)* }
            }
        }
        #freeze
    })
}

fn split_members(members: &Tokens) -> Vec<Tokens> {
    let mut out = vec![];
    for token in members.clone() {
        if !matches!(&token, proc_macro2::TokenTree::Punct(p) if p.as_char() == ',') {
            out.push(quote!(#token));
        }
    }
    out
}

/// The path in front of a pattern's braces.
fn constructor(pattern: &Tokens) -> Tokens {
    pattern.clone().into_iter().take_while(|t| !matches!(t, proc_macro2::TokenTree::Group(_))).collect()
}
